/* The life of a client session: connect, TLS, upgrade, messages, Close; of an HTTP connection there
   are requests and answers in place of the last three.

   A step that would block returns and is taken up at the next event; the sockets are level-triggered,
   so that nothing has to be read to its end. */
#define _GNU_SOURCE
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_ROOM = 32 << 10, READS_PER_TURN = 8, SOURCES = 16, TICKETS_MAX = 256 };

static int loop;
static struct target target;
static struct story story;
static SSL_CTX *tls;
static SSL_SESSION *tickets[TICKETS_MAX];
static size_t ticket_count;
static uint64_t random_state = 0x2545f4914f6cdd1d;

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* Returns whether the ticket is ours from now on. */
static int keep_ticket(SSL *ssl, SSL_SESSION *fresh) {
    (void)ssl;
    if (ticket_count == TICKETS_MAX)
        return 0;
    tickets[ticket_count++] = fresh;
    return 1;
}

/* Each is used once (RFC 8446 appendix C.4), and every session brings a new one. */
static void use_ticket(SSL *ssl) {
    if (ticket_count > 0) {
        SSL_SESSION *ticket = tickets[--ticket_count];
        SSL_set_session(ssl, ticket);
        SSL_SESSION_free(ticket);
    }
}

/* One cipher and one group for all: else each TLS library would choose its own. */
static void tls_init(void) {
    tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256") ||
        !SSL_CTX_set1_groups_list(tls, "X25519"))
        fail("OpenSSL without TLS 1.3");
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    /* Several records with one read. */
    SSL_CTX_set_read_ahead(tls, 1);
    SSL_CTX_set_default_read_buffer_len(tls, 64 << 10);
    SSL_CTX_set_options(tls, SSL_OP_IGNORE_UNEXPECTED_EOF);
    if (target.resume) {
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(tls, keep_ticket);
    }
}

void sessions_init(int epoll_fd, const struct target *where, const struct story *what) {
    loop = epoll_fd;
    target = *where;
    story = *what;
    if (!target.plain)
        tls_init();
}

static void watch(struct session *s, bool writing, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
    s->writing = writing;
    if (epoll_ctl(loop, operation, s->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void want_writing(struct session *s, bool writing) {
    if (s->writing != writing)
        watch(s, writing, EPOLL_CTL_MOD);
}

/* Several source addresses, so that closed sessions don't use up the ports of one. */
static void bind_source(struct session *s) {
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + s->id % SOURCES);
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(s->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind: %s", strerror(errno));
}

void session_start(struct session *s, uint32_t id) {
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(target.port)};
    *s = (struct session){.id = id, .started_ns = now_ns()};
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        fail("socket: %s", strerror(errno));
    bind_source(s);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    watch(s, true, EPOLL_CTL_ADD);
}

static void finish(struct session *s) {
    if (s->ssl) {
        SSL_shutdown(s->ssl);
        SSL_free(s->ssl);
        ERR_clear_error();
    }
    close(s->fd);
    buf_free(&s->in);
    buf_free(&s->out);
    s->phase = CLOSED;
    story.closed(s);
}

/* What a TLS call that returned n means: bytes, 0 for the end, or -1 for "not now". */
static ssize_t tls_result(struct session *s, int n) {
    if (n > 0)
        return n;
    switch (SSL_get_error(s->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return -1;
    case SSL_ERROR_WANT_WRITE:
        want_writing(s, true);
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        fail("session %u, phase %d: TLS: %s", s->id, s->phase,
             ERR_peek_error() ? ERR_error_string(ERR_peek_error(), NULL) : strerror(errno));
    }
}

static ssize_t receive(struct session *s, uint8_t *to, size_t room) {
    if (s->ssl)
        return tls_result(s, SSL_read(s->ssl, to, (int)room));
    ssize_t n = recv(s->fd, to, room, 0);
    if (n < 0 && !would_block())
        fail("session %u: %s", s->id, strerror(errno));
    return n;
}

static ssize_t transmit(struct session *s, const uint8_t *from, size_t size) {
    if (s->ssl)
        return tls_result(s, SSL_write(s->ssl, from, (int)size));
    ssize_t n = send(s->fd, from, size, MSG_NOSIGNAL);
    if (n < 0 && !would_block())
        fail("session %u: %s", s->id, strerror(errno));
    return n;
}

void session_flush(struct session *s) {
    while (buf_len(&s->out) > 0) {
        ssize_t n = transmit(s, buf_head(&s->out), buf_len(&s->out));
        if (n <= 0)
            break;
        buf_take(&s->out, (size_t)n);
    }
    want_writing(s, buf_len(&s->out) > 0);
}

static void put_frame(struct session *s, unsigned opcode, const uint8_t *payload, size_t size) {
    uint64_t mask = random_next();
    uint8_t *out = buf_room(&s->out, size + FRAME_HEAD_MAX);
    size_t head = frame_head(out, opcode, size, (uint8_t *)&mask);
    frame_mask(out + head, payload, size, (uint8_t *)&mask);
    s->out.end += head + size;
}

void session_put(struct session *s, size_t size, const struct message *m) {
    s->sent++;
    if (target.method) {
        http_ask(&s->out, target.method, target.path, size, m);
        return;
    }
    uint64_t mask = random_next();
    uint8_t *out = buf_room(&s->out, size + FRAME_HEAD_MAX);
    size_t head = frame_head(out, OP_BINARY, size, (uint8_t *)&mask);
    message_write(out + head, size, m);
    frame_mask(out + head, out + head, size, (uint8_t *)&mask);
    s->out.end += head + size;
}

void session_put_close(struct session *s) {
    if (target.method) {
        finish(s);
        return;
    }
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 0xff};
    put_frame(s, OP_CLOSE, normal, sizeof normal);
    s->phase = CLOSING;
}

static void take_message(struct session *s, const struct message *m) {
    if (m->session != s->id)
        fail("session %u got a message of session %u", s->id, m->session);
    story.message(s, m);
}

static void take_answers(struct session *s) {
    struct message m;
    while (s->phase == OPEN && http_answer(&s->in, &m))
        take_message(s, &m);
}

static void take_frame(struct session *s, const struct frame *f, const uint8_t *payload) {
    struct message m;
    switch (f->opcode) {
    case OP_BINARY:
        if (!message_read(payload, f->len, &m))
            fail("session %u: a corrupted message of %zu bytes", s->id, f->len);
        take_message(s, &m);
        return;
    case OP_PING:
        put_frame(s, OP_PONG, payload, f->len);
        return;
    case OP_PONG:
        return;
    case OP_CLOSE:
        if (s->phase != CLOSING)
            fail("session %u was closed with code %d", s->id,
                 f->len >= 2 ? payload[0] << 8 | payload[1] : 1005);
        return;
    default:
        fail("session %u got a frame with opcode %u", s->id, f->opcode);
    }
}

static void take_frames(struct session *s) {
    struct frame f;
    int known;
    while ((known = frame_read(buf_head(&s->in), buf_len(&s->in), &f)) != 0) {
        if (known < 0 || f.masked)
            fail("session %u got bytes that aren't a node's frames", s->id);
        if (buf_len(&s->in) < f.head + f.len) {
            buf_room(&s->in, f.head + f.len - buf_len(&s->in));
            return;
        }
        take_frame(s, &f, buf_head(&s->in) + f.head);
        buf_take(&s->in, f.head + f.len);
    }
}

static void ask_upgrade(struct session *s) {
    uint64_t nonce[2] = {random_next(), random_next()};
    char key[25], *room = (char *)buf_room(&s->out, 512);
    EVP_EncodeBlock((unsigned char *)key, (unsigned char *)nonce, sizeof nonce);
    websocket_accept(key, strlen(key), s->accept);
    int n = snprintf(room, 512,
                     "GET %s HTTP/1.1\r\nHost: localhost:%u\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                     "Sec-WebSocket-Version: 13\r\n\r\n",
                     target.path, target.port, key);
    s->out.end += (size_t)n;
    s->phase = UPGRADING;
    session_flush(s);
}

/* The connection stands: the first thing to be said on it. */
static void begin_talk(struct session *s) {
    if (target.silent) {
        story.opened(s);
        finish(s);
        return;
    }
    if (!target.method) {
        ask_upgrade(s);
        return;
    }
    s->phase = OPEN;
    story.opened(s);
    session_flush(s);
}

static void take_upgrade(struct session *s) {
    char *head = (char *)buf_head(&s->in);
    char *end = memmem(head, buf_len(&s->in), "\r\n\r\n", 4);
    if (end == NULL)
        return;
    size_t len = 0;
    *end = '\0';
    const char *accept = http_header(head, "Sec-WebSocket-Accept", &len);
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0)
        fail("session %u: the upgrade was answered with %.*s", s->id, (int)strcspn(head, "\r"), head);
    if (len != ACCEPT_SIZE - 1 || memcmp(accept, s->accept, len) != 0)
        fail("session %u: a wrong Sec-WebSocket-Accept", s->id);
    buf_take(&s->in, (size_t)(end + 4 - head));
    s->phase = OPEN;
    story.opened(s);
}

static void begin_tls(struct session *s) {
    s->ssl = SSL_new(tls);
    if (s->ssl == NULL || !SSL_set_fd(s->ssl, s->fd) || !SSL_set_tlsext_host_name(s->ssl, "localhost"))
        fail("SSL_new");
    SSL_set_connect_state(s->ssl);
    use_ticket(s->ssl);
    s->phase = SECURING;
}

static void advance_tls(struct session *s) {
    want_writing(s, false);
    ssize_t done = tls_result(s, SSL_do_handshake(s->ssl));
    if (done == 0)
        fail("session %u was closed in its TLS handshake", s->id);
    if (done < 0)
        return;
    s->resumed = SSL_session_reused(s->ssl);
    begin_talk(s);
}

static void check_connected(struct session *s) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("session %u: connect: %s", s->id, strerror(error));
}

static void take_all(struct session *s) {
    /* What lies in OpenSSL's buffer is announced by no event, so it is always read. */
    bool more = true;
    for (int turn = 0; more; turn++) {
        uint8_t *room = buf_room(&s->in, READ_ROOM);
        size_t size = s->in.cap - s->in.end;
        ssize_t n = receive(s, room, size);
        if (n == 0) {
            if (s->phase != CLOSING)
                fail("session %u was cut off in phase %d", s->id, s->phase);
            finish(s);
            return;
        }
        if (n < 0)
            break;
        s->in.end += (size_t)n;
        if (s->phase == UPGRADING)
            take_upgrade(s);
        if (target.method)
            take_answers(s);
        else if (s->phase >= OPEN)
            take_frames(s);
        bool full = (size_t)n == size && turn < READS_PER_TURN;
        more = full || (s->ssl && SSL_has_pending(s->ssl));
    }
    session_flush(s);
}

void session_event(struct session *s) {
    if (s->phase == CONNECTING) {
        check_connected(s);
        if (!target.plain)
            begin_tls(s);
        else
            begin_talk(s);
    }
    if (s->phase == SECURING)
        advance_tls(s);
    else if (s->phase != CLOSED)
        take_all(s);
}
