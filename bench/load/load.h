/* What the node and the generator share: buffers, RFC 6455 frames, and messages that prove themselves. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESSAGE_HEAD 32u
#define MESSAGE_MAX (8u << 20)
#define FRAME_HEAD_MAX 14u

enum { OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

/* Bytes that arrived or wait to leave: data[start..end) is live. */
struct buf {
    uint8_t *data;
    size_t start, end, cap;
};

struct frame {
    unsigned opcode;
    bool masked;
    uint8_t mask[4];
    size_t head, len;
};

/* KIND_PUSH asks the node for a message of the same size every `stamp` nanoseconds, KIND_STOP ends
   that, and the node's KIND_STOP carries in `seq` how many it pushed. */
enum { KIND_ECHO = 1, KIND_PUSH = 2, KIND_STOP = 3 };

/* The first bytes of every message; the rest is a pattern that depends on seq and session. */
struct message {
    uint64_t seq, stamp;
    uint32_t session, kind;
};

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void raise_file_limit(void);
int timer_every(uint64_t first_ns, uint64_t interval_ns);
void timer_drain(int fd);
bool would_block(void);

static inline size_t buf_len(const struct buf *b) { return b->end - b->start; }
static inline uint8_t *buf_head(const struct buf *b) { return b->data + b->start; }
uint8_t *buf_room(struct buf *b, size_t room);
void buf_take(struct buf *b, size_t n);
void buf_free(struct buf *b);

int frame_read(const uint8_t *p, size_t n, struct frame *f);
size_t frame_head(uint8_t *out, unsigned opcode, size_t len, const uint8_t *mask);
void frame_mask(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *mask);

void message_write(uint8_t *out, size_t size, const struct message *m);
bool message_read(const uint8_t *in, size_t size, struct message *m);

#define ACCEPT_SIZE 29
void websocket_accept(const char *key, size_t key_len, char out[ACCEPT_SIZE]);
const char *http_header(const char *head, const char *name, size_t *len);

void http_ask(struct buf *out, const char *method, const char *path, size_t size,
              const struct message *m);
bool http_answer(struct buf *in, struct message *m);
void http_serve(struct buf *in, struct buf *out, bool *last);

int node_main(int argc, char **argv);
int drive_main(int argc, char **argv);

#endif
