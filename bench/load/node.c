/* The node behind the proxy: over plain TCP it echoes WebSocket messages, pushes them when asked to,
   and answers HTTP requests. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_ROOM = 64 << 10, BACKLOG_MAX = 32 << 20, EVENTS = 256, READS_PER_TURN = 4 };

struct peer {
    int fd;
    bool upgraded, http, closing, writing;
    struct buf in, out;
    /* While pushing it stands in a list. */
    bool pushing;
    uint32_t session;
    uint64_t pushed;
    size_t push_size;
    struct peer *next, *previous;
};

static int loop;
static struct peer *pushing;
static int push_timer = -1;
static uint64_t push_due, push_interval;
/* Stand-ins that tell the descriptors without a peer apart in epoll's data. */
static struct peer listener, timer, input;

static void watch(int fd, struct peer *tag, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = tag};
    if (epoll_ctl(loop, operation, fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* The timer goes with the last of them. */
static void stop_pushing(struct peer *p) {
    if (!p->pushing)
        return;
    p->pushing = false;
    if (p->previous)
        p->previous->next = p->next;
    else
        pushing = p->next;
    if (p->next)
        p->next->previous = p->previous;
    if (pushing == NULL) {
        close(push_timer);
        push_timer = -1;
    }
}

static void drop(struct peer *p) {
    stop_pushing(p);
    close(p->fd);
    buf_free(&p->in);
    buf_free(&p->out);
    free(p);
}

/* Write what is pending; false if the peer is gone. */
static bool flush(struct peer *p) {
    while (buf_len(&p->out) > 0) {
        ssize_t n = send(p->fd, buf_head(&p->out), buf_len(&p->out), MSG_NOSIGNAL);
        if (n < 0 && !would_block()) {
            drop(p);
            return false;
        }
        if (n < 0)
            break;
        buf_take(&p->out, (size_t)n);
    }
    bool pending = buf_len(&p->out) > 0;
    if (p->closing && !pending) {
        drop(p);
        return false;
    }
    if (pending != p->writing) {
        /* Nothing more is read from one who doesn't read: that bounds `out`. */
        watch(p->fd, p, pending ? EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
        p->writing = pending;
    }
    return true;
}

static void upgrade(struct peer *p) {
    char *head = (char *)buf_head(&p->in), accept[ACCEPT_SIZE];
    size_t key_len, len = buf_len(&p->in);
    char *end = memmem(head, len, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    *end = '\0';
    const char *key = http_header(head, "Sec-WebSocket-Key", &key_len);
    if (key == NULL) {
        *end = '\r';
        p->http = true;
        http_serve(&p->in, &p->out, &p->closing);
        return;
    }
    websocket_accept(key, key_len, accept);
    uint8_t *room = buf_room(&p->out, 256);
    int n = snprintf((char *)room, 256,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                     accept);
    p->out.end += (size_t)n;
    buf_take(&p->in, (size_t)(end + 4 - head));
    p->upgraded = true;
}

static void put_message(struct peer *p, size_t size, const struct message *m) {
    uint8_t *out = buf_room(&p->out, size + FRAME_HEAD_MAX);
    size_t head = frame_head(out, OP_BINARY, size, NULL);
    message_write(out + head, size, m);
    p->out.end += head + size;
}

static void start_pushing(struct peer *p, const struct message *m, size_t size) {
    if (p->pushing)
        fail("session %u asked twice for pushes", m->session);
    p->pushing = true;
    p->session = m->session;
    p->push_size = size;
    p->previous = NULL;
    p->next = pushing;
    if (pushing)
        pushing->previous = p;
    pushing = p;
    if (push_timer < 0) {
        push_interval = m->stamp;
        push_due = now_ns() + push_interval;
        push_timer = timer_every(push_due, push_interval);
        watch(push_timer, &timer, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* One update of a record: every subscriber gets it, at once. */
static void push_all(void) {
    timer_drain(push_timer);
    for (; pushing && push_due <= now_ns(); push_due += push_interval) {
        for (struct peer *p = pushing, *next; p; p = next) {
            next = p->next;
            struct message m = {p->pushed++, push_due, p->session, KIND_PUSH};
            if (buf_len(&p->out) > BACKLOG_MAX)
                fail("session %u doesn't take what is pushed", p->session);
            put_message(p, p->push_size, &m);
            flush(p);
        }
    }
}

/* A proxy may probe its nodes as deepstream ones; what it expects differs in one byte. */
static void answer_probe(uint8_t *payload, size_t len) {
    static const uint8_t challenge[] = {0x06, 0x10, 0x02, 0x1a, 0x02, 0x08, 0x05};
    if (len != sizeof challenge || memcmp(payload, challenge, len) != 0)
        fail("the node got %zu bytes that aren't a message", len);
    payload[len - 1] = 0x04;
}

/* Answer one whole frame: the echo is made in place in `out`, and taken back if it isn't one. */
static void answer(struct peer *p, const struct frame *f, const uint8_t *payload) {
    struct message m;
    unsigned opcode = f->opcode == OP_PING ? OP_PONG : f->opcode;
    if (f->opcode == OP_PONG)
        return;
    uint8_t *out = buf_room(&p->out, f->len + FRAME_HEAD_MAX);
    size_t head = frame_head(out, opcode, f->len, NULL);
    frame_mask(out + head, payload, f->len, f->mask);
    p->closing = f->opcode == OP_CLOSE;
    if (f->opcode == OP_BINARY && f->len < MESSAGE_HEAD) {
        answer_probe(out + head, f->len);
    } else if (f->opcode == OP_BINARY) {
        if (!message_read(out + head, f->len, &m))
            fail("the node got a corrupted message of %zu bytes", f->len);
        if (m.kind == KIND_PUSH) {
            start_pushing(p, &m, f->len);
            return;
        }
        if (m.kind == KIND_STOP) {
            stop_pushing(p);
            m.seq = p->pushed;
            put_message(p, f->len, &m);
            return;
        }
    }
    p->out.end += head + f->len;
}

/* All whole frames that have arrived; false if these bytes aren't a client's frames. */
static bool answer_frames(struct peer *p) {
    struct frame f;
    int known;
    while (!p->closing && (known = frame_read(buf_head(&p->in), buf_len(&p->in), &f)) != 0) {
        if (known < 0 || !f.masked)
            return false;
        if (buf_len(&p->in) < f.head + f.len) {
            buf_room(&p->in, f.head + f.len - buf_len(&p->in));
            break;
        }
        answer(p, &f, buf_head(&p->in) + f.head);
        buf_take(&p->in, f.head + f.len);
    }
    return true;
}

static void receive(struct peer *p) {
    for (int turn = 0; turn < READS_PER_TURN; turn++) {
        uint8_t *room = buf_room(&p->in, READ_ROOM);
        size_t size = p->in.cap - p->in.end;
        ssize_t n = recv(p->fd, room, size, 0);
        if (n < 0 && would_block())
            break;
        if (n <= 0) {
            drop(p);
            return;
        }
        p->in.end += (size_t)n;
        if (p->http)
            http_serve(&p->in, &p->out, &p->closing);
        else if (!p->upgraded)
            upgrade(p);
        if (p->upgraded && !answer_frames(p))
            fail("the node got something that isn't a WebSocket client");
        if ((size_t)n < size)
            break;
    }
    flush(p);
}

static void accept_all(int fd) {
    for (int i = 0; i < EVENTS; i++) {
        int one = 1, client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0 && would_block())
            return;
        struct peer *p = calloc(1, sizeof *p);
        if (client < 0 || p == NULL)
            fail("accept: %s", strerror(errno));
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        p->fd = client;
        watch(client, p, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static int listen_on(uint16_t port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0)
        fail("port %u: %s", port, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("{\"event\": \"ready\", \"port\": %u}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* load node [PORT]: serve until standard input is closed, so that a lost parent can't leave it. */
int node_main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    int server = listen_on((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    loop = epoll_create1(EPOLL_CLOEXEC);
    watch(server, &listener, EPOLLIN, EPOLL_CTL_ADD);
    watch(STDIN_FILENO, &input, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        int n = epoll_wait(loop, events, EVENTS, -1);
        bool tick = false;
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (p == &input)
                return 0;
            if (p == &listener)
                accept_all(server);
            else if (p == &timer)
                tick = true; /* after the others: a push can drop a peer that stands in events */
            else if (p->writing)
                flush(p);
            else
                receive(p);
        }
        if (tick && push_timer >= 0)
            push_all();
    }
}
