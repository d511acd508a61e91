/* Latencies in a histogram of some 1.5 % resolution, from 1 ns to minutes. */
#ifndef LATENCY_H
#define LATENCY_H

#include <stdint.h>

void latency_reset(void);
void latency_add(uint64_t ns);
double latency_us(double share);

#endif
