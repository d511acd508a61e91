/* Messages as HTTP/1.1, for both ends: a POST carries one there and back, a GET asks for one by its
   facts in the target. Every answer is a message, so that a byte that was changed, or an answer that
   came to the wrong request, is seen. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_ROOM = 512 };

static const char head_end[] = "\r\n\r\n";

struct head {
    char *text; /* NUL-terminated for as long as it is looked at */
    size_t size, body;
    bool last; /* the connection ends with it */
};

/* A whole head at the start of a buffer. Only Content-Length frames a body here: whoever sends
   another framing on has changed what it was given. */
static bool head_find(struct buf *in, struct head *h) {
    size_t len;
    char *start = (char *)buf_head(in), *end = memmem(start, buf_len(in), head_end, 4);
    if (end == NULL)
        return false;
    *end = '\0';
    h->text = start;
    h->size = (size_t)(end + 4 - start);
    const char *length = http_header(start, "Content-Length", &len);
    h->body = length ? strtoul(length, NULL, 10) : 0;
    const char *connection = http_header(start, "Connection", &len);
    h->last = connection != NULL && len == 5 && strncasecmp(connection, "close", 5) == 0;
    if (http_header(start, "Transfer-Encoding", &len) || h->body > MESSAGE_MAX)
        fail("an HTTP head that nobody here would send:\n%s", start);
    return true;
}

/* Whether the body is there too; if not, the head is as it was. */
static bool head_complete(struct buf *in, struct head *h) {
    if (buf_len(in) >= h->size + h->body)
        return true;
    h->text[h->size - 4] = '\r';
    buf_room(in, h->size + h->body - buf_len(in));
    return false;
}

void http_ask(struct buf *out, const char *method, const char *path, size_t size,
              const struct message *m) {
    bool post = strcmp(method, "POST") == 0;
    uint8_t *room = buf_room(out, HEAD_ROOM + size);
    int n;
    if (post)
        n = snprintf((char *)room, HEAD_ROOM,
                     "POST %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     path, size);
    else
        n = snprintf((char *)room, HEAD_ROOM,
                     "%s %s?size=%zu&seq=%lu&stamp=%lu&session=%u&kind=%u HTTP/1.1\r\n"
                     "Host: localhost\r\nUser-Agent: load/1\r\nAccept: */*\r\n\r\n",
                     method, path, size, m->seq, m->stamp, m->session, m->kind);
    if (n >= HEAD_ROOM)
        fail("the path %s is too long", path);
    if (post)
        message_write(room + n, size, m);
    out->end += (size_t)n + (post ? size : 0);
}

/* The first whole answer; false if it isn't there yet. */
bool http_answer(struct buf *in, struct message *m) {
    struct head h;
    if (!head_find(in, &h) || !head_complete(in, &h))
        return false;
    if (strncmp(h.text, "HTTP/1.1 200 ", 13) != 0)
        fail("a request was answered with\n%s", h.text);
    if (h.last)
        fail("a connection that is to be kept was not:\n%s", h.text);
    if (!message_read(buf_head(in) + h.size, h.body, m))
        fail("a corrupted answer of %zu bytes", h.body);
    buf_take(in, h.size + h.body);
    return true;
}

static bool wanted(const struct head *h, const uint8_t *body, struct message *m, size_t *size) {
    if (strncmp(h->text, "POST ", 5) == 0) {
        *size = h->body;
        return message_read(body, h->body, m);
    }
    const char *query = strchr(h->text, '?');
    return strncmp(h->text, "GET ", 4) == 0 && query != NULL &&
           sscanf(query, "?size=%zu&seq=%lu&stamp=%lu&session=%u&kind=%u ", size, &m->seq,
                  &m->stamp, &m->session, &m->kind) == 5 &&
           *size >= MESSAGE_HEAD && *size <= MESSAGE_MAX;
}

/* Answer all whole requests; `last` is set if the connection ends with the last answer. */
void http_serve(struct buf *in, struct buf *out, bool *last) {
    struct head h;
    while (!*last && head_find(in, &h) && head_complete(in, &h)) {
        struct message m;
        size_t size;
        if (!wanted(&h, buf_head(in) + h.size, &m, &size))
            fail("the node got a request that nobody here would send:\n%s", h.text);
        *last = h.last;
        uint8_t *room = buf_room(out, HEAD_ROOM + size);
        int n = snprintf((char *)room, HEAD_ROOM,
                         "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
                         "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nConnection: %s\r\n"
                         "Content-Length: %zu\r\n\r\n",
                         h.last ? "close" : "keep-alive", size);
        message_write(room + n, size, &m);
        out->end += (size_t)n + size;
        buf_take(in, h.size + h.body);
    }
}
