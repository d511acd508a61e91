#include "latency.h"

#include <string.h>

/* Each power of two is cut into 64 steps; the numbers below 64 stand for themselves. */
enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, SLOTS = STEPS * 40 };

static uint64_t slots[SLOTS], total, highest;

void latency_reset(void) {
    memset(slots, 0, sizeof slots);
    total = highest = 0;
}

static unsigned slot_of(uint64_t ns) {
    if (ns < STEPS)
        return (unsigned)ns;
    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - STEP_BITS;
    unsigned slot = (shift + 1) * STEPS + (unsigned)((ns >> shift) - STEPS);
    return slot < SLOTS ? slot : SLOTS - 1;
}

static uint64_t middle_of(unsigned slot) {
    if (slot < STEPS)
        return slot;
    unsigned shift = slot / STEPS - 1;
    return ((uint64_t)(slot % STEPS + STEPS) << shift) + ((1ull << shift) >> 1);
}

void latency_add(uint64_t ns) {
    slots[slot_of(ns)]++;
    total++;
    if (ns > highest)
        highest = ns;
}

double latency_us(double share) {
    uint64_t wanted = (uint64_t)(share * (double)total), seen = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        seen += slots[i];
        if (seen > wanted)
            return (double)middle_of(i) / 1e3;
    }
    return (double)highest / 1e3;
}
