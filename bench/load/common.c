/* Clock, buffers, frames and messages, used by both ends. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* A benchmark that lost or changed a byte has no figures: the first fault ends the program. */
void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static struct timespec timespec_of(uint64_t ns) {
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* A timerfd has no slack, where an epoll time-out is a whole millisecond. */
int timer_every(uint64_t first_ns, uint64_t interval_ns) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec spec = {timespec_of(interval_ns), timespec_of(first_ns)};
    if (fd < 0 || timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL) < 0)
        fail("timerfd: %s", strerror(errno));
    return fd;
}

void timer_drain(int fd) {
    uint64_t expirations;
    if (read(fd, &expirations, sizeof expirations) < 0 && !would_block())
        fail("timerfd: %s", strerror(errno));
}

bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* Make room for `room` bytes after the live ones, and return where they go. */
uint8_t *buf_room(struct buf *b, size_t room) {
    if (b->cap - b->end >= room)
        return b->data + b->end;
    size_t len = buf_len(b);
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, len);
        b->start = 0;
        b->end = len;
    }
    if (b->cap - len < room) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap - len < room)
            cap *= 2;
        b->data = realloc(b->data, cap);
        if (b->data == NULL)
            fail("out of memory");
        b->cap = cap;
    }
    return b->data + b->end;
}

void buf_take(struct buf *b, size_t n) {
    b->start += n;
    if (b->start == b->end)
        b->start = b->end = 0;
}

void buf_free(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

/* RFC 6455 §5.2. Returns 1 for a whole header, 0 if more bytes are needed, -1 for a frame that no
   peer has a reason to send here: fragments, reserved bits, or more than MESSAGE_MAX. */
int frame_read(const uint8_t *p, size_t n, struct frame *f) {
    if (n < 2)
        return 0;
    size_t short_len = p[1] & 0x7f;
    size_t wide = short_len == 127 ? 8 : short_len == 126 ? 2 : 0;
    f->opcode = p[0] & 0x0f;
    f->masked = (p[1] & 0x80) != 0;
    f->head = 2 + wide + (f->masked ? 4 : 0);
    if ((p[0] & 0xf0) != 0x80)
        return -1;
    if (n < f->head)
        return 0;
    f->len = wide ? 0 : short_len;
    for (size_t i = 0; i < wide; i++)
        f->len = f->len << 8 | p[2 + i];
    if (f->masked)
        memcpy(f->mask, p + 2 + wide, 4);
    return f->len > MESSAGE_MAX ? -1 : 1;
}

size_t frame_head(uint8_t *out, unsigned opcode, size_t len, const uint8_t *mask) {
    size_t wide = len > 0xffff ? 8 : len > 125 ? 2 : 0;
    size_t n = 2;
    out[0] = (uint8_t)(0x80 | opcode);
    out[1] = (uint8_t)((mask ? 0x80 : 0) | (wide == 8 ? 127 : wide == 2 ? 126 : len));
    for (size_t i = wide; i-- > 0;)
        out[n++] = (uint8_t)((uint64_t)len >> (8 * i));
    if (mask) {
        memcpy(out + n, mask, 4);
        n += 4;
    }
    return n;
}

/* Masking is its own inverse; dst may be src. */
void frame_mask(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *mask) {
    uint64_t key, word;
    size_t i = 0;
    memcpy(&key, mask, 4);
    memcpy((uint8_t *)&key + 4, mask, 4);
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, src + i, 8);
        word ^= key;
        memcpy(dst + i, &word, 8);
    }
    for (; i < n; i++)
        dst[i] = src[i] ^ mask[i & 3];
}

/* The period is a prime, so that no exchange of blocks, pages or TLS records goes unseen. */
enum { PERIOD = 65521, SHIFTS = 251 };
static uint8_t pattern[PERIOD + SHIFTS];

static const uint8_t *pattern_for(const struct message *m) {
    if (pattern[0] == 0) {
        uint32_t x = 0x9e3779b9;
        for (size_t i = 0; i < sizeof pattern; i++) {
            x ^= x << 13, x ^= x >> 17, x ^= x << 5;
            pattern[i] = i == 0 ? 1 : (uint8_t)x;
        }
    }
    return pattern + (m->seq * 7 + m->session) % SHIFTS;
}

static uint64_t message_check(const struct message *m, size_t size) {
    uint64_t x = m->seq * 0x9e3779b97f4a7c15u ^ m->stamp ^ (uint64_t)m->session << 32;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u + m->kind + size;
    return x ^ x >> 32;
}

void message_write(uint8_t *out, size_t size, const struct message *m) {
    const uint8_t *from = pattern_for(m);
    uint64_t check = message_check(m, size);
    memcpy(out, m, sizeof *m);
    memcpy(out + sizeof *m, &check, sizeof check);
    for (size_t i = MESSAGE_HEAD; i < size; i += PERIOD)
        memcpy(out + i, from, size - i < PERIOD ? size - i : PERIOD);
}

/* False if any byte isn't what the sender wrote. */
bool message_read(const uint8_t *in, size_t size, struct message *m) {
    uint64_t check;
    if (size < MESSAGE_HEAD)
        return false;
    memcpy(m, in, sizeof *m);
    memcpy(&check, in + sizeof *m, sizeof check);
    if (check != message_check(m, size))
        return false;
    const uint8_t *from = pattern_for(m);
    for (size_t i = MESSAGE_HEAD; i < size; i += PERIOD)
        if (memcmp(in + i, from, size - i < PERIOD ? size - i : PERIOD) != 0)
            return false;
    return true;
}

/* RFC 6455 §4.2.2: base64 of the SHA-1 of the key and a fixed GUID. */
void websocket_accept(const char *key, size_t key_len, char out[ACCEPT_SIZE]) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char text[128], digest[SHA_DIGEST_LENGTH];
    if (key_len > sizeof text - sizeof guid)
        fail("a Sec-WebSocket-Key of %zu bytes", key_len);
    memcpy(text, key, key_len);
    memcpy(text + key_len, guid, sizeof guid - 1);
    SHA1(text, key_len + sizeof guid - 1, digest);
    EVP_EncodeBlock((unsigned char *)out, digest, sizeof digest);
}

/* The value of a header in a NUL-terminated head, or NULL. */
const char *http_header(const char *head, const char *name, size_t *len) {
    size_t name_len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, name_len) == 0 && line[name_len] == ':') {
            const char *value = line + name_len + 1;
            value += strspn(value, " \t");
            *len = strcspn(value, " \t\r\n");
            return value;
        }
    }
    return NULL;
}
