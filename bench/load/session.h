/* One WebSocket client session, or a kept HTTP connection, over TLS 1.3 or plain TCP, non-blocking. */
#ifndef SESSION_H
#define SESSION_H

#include "load.h"

enum phase { CONNECTING, SECURING, UPGRADING, OPEN, CLOSING, CLOSED };

struct session {
    int fd;
    void *ssl; /* NULL over plain TCP */
    enum phase phase;
    bool writing, resumed;
    uint32_t id;
    uint64_t sent, got, started_ns;
    struct buf in, out;
    char accept[ACCEPT_SIZE];
};

/* What the scenario does with a session; set once by sessions_init. */
struct story {
    void (*opened)(struct session *);
    void (*message)(struct session *, const struct message *);
    void (*closed)(struct session *);
};

struct target {
    uint16_t port;
    bool plain, resume;
    bool silent; /* hangs up as soon as it is connected */
    const char *path;
    const char *method; /* of HTTP requests in place of a WebSocket; NULL: none */
};

void sessions_init(int epoll_fd, const struct target *target, const struct story *story);
void session_start(struct session *s, uint32_t id);
void session_event(struct session *s);
void session_put(struct session *s, size_t size, const struct message *m);
void session_put_close(struct session *s);
void session_flush(struct session *s);

#endif
