/* The generator: one scenario against one address, and one line of JSON with what it saw.

   A run has four steps: open all sessions, warm up, measure, and settle (what is still under way
   arrives, and is counted as delivered but not as measured). {"event": "begin"} and {"event": "end"}
   are printed at both ends of the measured time, so that who reads them can look at the clock of the
   proxy's CPU. */
#define _GNU_SOURCE
#include "latency.h"
#include "session.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 256, OPENING_MAX = 64 };
static const uint64_t SECOND = 1000000000;

enum mode { CLOSED_LOOP, OPEN_LOOP, PUSH, CONNECT, IDLE, GET, POST, SHAKE };
static const char *const mode_names[] = {"echo", "open", "push", "connect", "idle", "get", "post",
                                         "shake"};

static struct {
    enum mode mode;
    struct target target;
    uint32_t sessions, depth;
    size_t size;
    double rate, warmup, seconds, patience;
} option = {
    .target = {.path = "/deepstream"},
    .sessions = 1,
    .depth = 1,
    .size = 128,
    .rate = 1000,
    .warmup = 1,
    .seconds = 3,
    .patience = 20,
};

static int loop, ticker = -1;
static struct session *sessions, ticks, input;
static uint32_t started, opened, closed;
static uint64_t outstanding, measured, full_handshakes;
static bool opening = true, sending, measuring, input_ended;
static uint64_t due, interval, next_session;

/* Whether every answer is followed by the next question. */
static bool asks_again(void) {
    return option.mode == CLOSED_LOOP || option.mode == GET || option.mode == POST;
}

static void send_message(struct session *s, uint32_t kind, uint64_t stamp) {
    struct message m = {s->sent, stamp, s->id, kind};
    session_put(s, option.size, &m);
    outstanding++;
}

static void start_more(void) {
    /* Of a flood as many are under way as there are. */
    while (started < option.sessions &&
           (option.mode == SHAKE || started - opened < OPENING_MAX)) {
        session_start(&sessions[started], started);
        started++;
    }
}

static void on_opened(struct session *s) {
    opened++;
    if (option.mode == SHAKE && measuring) {
        measured++;
        latency_add(now_ns() - s->started_ns);
    }
    if (option.mode == CONNECT || option.mode == IDLE)
        send_message(s, KIND_ECHO, s->started_ns);
    if (opening)
        start_more();
}

static void on_closed(struct session *s) {
    if ((option.mode == CONNECT || option.mode == SHAKE) && sending)
        session_start(s, s->id + option.sessions);
    else
        closed++;
}

static void on_pushed(struct session *s, const struct message *m, uint64_t now) {
    if (m->kind == KIND_STOP) {
        if (m->seq != s->got)
            fail("session %u got %lu of %lu pushed messages", s->id, s->got, m->seq);
        outstanding--;
        return;
    }
    if (m->seq != s->got++)
        fail("session %u got push %lu in place of %lu", s->id, m->seq, s->got - 1);
    if (measuring) {
        measured++;
        latency_add(now - m->stamp);
    }
}

static void on_message(struct session *s, const struct message *m) {
    uint64_t now = now_ns();
    if (option.mode == PUSH) {
        on_pushed(s, m, now);
        return;
    }
    if (m->seq != s->got++)
        fail("session %u got message %lu in place of %lu", s->id, m->seq, s->got - 1);
    outstanding--;
    if (measuring) {
        measured++;
        full_handshakes += !s->resumed;
        latency_add(now - m->stamp);
    }
    if (asks_again() && sending)
        send_message(s, KIND_ECHO, now);
    else if (option.mode == CONNECT)
        session_put_close(s);
}

/* Send what the timetable says; a message that is late still carries the time it was due. */
static void on_tick(void) {
    timer_drain(ticker);
    for (; sending && due <= now_ns(); due += interval) {
        struct session *s = &sessions[next_session++ % option.sessions];
        send_message(s, KIND_ECHO, due);
        session_flush(s);
    }
}

/* Handle events until `done` says so, or for `ns`; false if the time ran out. */
static bool run_until(bool (*done)(void), uint64_t ns) {
    struct epoll_event events[EVENTS];
    uint64_t deadline = now_ns() + ns, now;
    while (!done()) {
        if ((now = now_ns()) >= deadline)
            return false;
        int n = epoll_wait(loop, events, EVENTS, (int)((deadline - now) / 1000000) + 1);
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (s == &ticks)
                on_tick();
            else if (s == &input)
                input_ended = true;
            else
                session_event(s);
        }
    }
    return true;
}

static bool never(void) { return false; }
static bool all_opened(void) { return opened >= option.sessions; }
static bool all_settled(void) { return outstanding == 0; }
static bool all_closed(void) { return closed == option.sessions; }
static bool told_to_stop(void) { return input_ended; }

static uint64_t patience(void) { return (uint64_t)(option.patience * (double)SECOND); }

static void announce(const char *event) {
    printf("{\"event\": \"%s\"}\n", event);
    fflush(stdout);
}

static void watch(int fd, struct session *tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void open_all(void) {
    sending = true;
    start_more();
    if (!run_until(all_opened, patience()))
        fail("%u of %u sessions opened in time", opened, option.sessions);
    opening = false;
}

static void send_on_all(uint32_t kind, uint64_t stamp, uint32_t depth) {
    for (uint32_t i = 0; i < option.sessions; i++) {
        for (uint32_t j = 0; j < depth; j++)
            send_message(&sessions[i], kind, stamp ? stamp : now_ns());
        session_flush(&sessions[i]);
    }
}

static void begin_work(void) {
    if (asks_again()) {
        send_on_all(KIND_ECHO, 0, option.depth);
    } else if (option.mode == PUSH) {
        double per_session = option.rate / option.sessions;
        send_on_all(KIND_PUSH, (uint64_t)((double)SECOND / per_session), 1);
        outstanding = 0; /* the first answer is a push */
    } else if (option.mode == OPEN_LOOP) {
        interval = (uint64_t)((double)SECOND / option.rate);
        due = now_ns() + interval;
        ticker = timer_every(due, interval);
        watch(ticker, &ticks);
    }
}

static double measure(void) {
    run_until(never, (uint64_t)(option.warmup * (double)SECOND));
    latency_reset();
    measuring = true;
    uint64_t begun = now_ns();
    announce("begin");
    run_until(never, (uint64_t)(option.seconds * (double)SECOND));
    measuring = false;
    double seconds = (double)(now_ns() - begun) / (double)SECOND;
    announce("end");
    return seconds;
}

/* Every session is shown to work, is left alone, and is shown to work again. */
static double hold(void) {
    if (!run_until(all_settled, patience()))
        fail("%lu sessions gave no echo", outstanding);
    announce("ready");
    watch(STDIN_FILENO, &input);
    uint64_t begun = now_ns();
    if (!run_until(told_to_stop, 600 * SECOND))
        fail("nobody ended the idle sessions");
    epoll_ctl(loop, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    send_on_all(KIND_ECHO, 0, 1);
    measured = option.sessions;
    return (double)(now_ns() - begun) / (double)SECOND;
}

static void settle(void) {
    sending = false;
    if (option.mode == PUSH)
        send_on_all(KIND_STOP, 0, 1);
    if (!run_until(all_settled, patience()))
        fail("%lu messages were lost", outstanding);
    for (uint32_t i = 0; i < option.sessions && option.mode != CONNECT && option.mode != SHAKE;
         i++) {
        session_put_close(&sessions[i]);
        session_flush(&sessions[i]);
    }
    if (!run_until(all_closed, patience()))
        fail("%u of %u sessions closed in time", closed, option.sessions);
}

static void report(double seconds) {
    printf("{\"event\": \"result\", \"messages\": %lu, \"seconds\": %.6f, \"full_handshakes\": %lu, "
           "\"errors\": 0, \"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
           "\"p99.9\": %.1f, \"max\": %.1f}}\n",
           measured, seconds, full_handshakes, latency_us(0.5), latency_us(0.9), latency_us(0.99),
           latency_us(0.999), latency_us(1));
}

static enum mode mode_named(const char *name) {
    for (size_t i = 0; i < sizeof mode_names / sizeof *mode_names; i++)
        if (strcmp(name, mode_names[i]) == 0)
            return (enum mode)i;
    fail("no mode %s: echo, open, push, connect, idle, get, post or shake", name);
}

static void parse(int argc, char **argv) {
    static const struct option known[] = {
        {"port", required_argument, 0, 'p'},    {"path", required_argument, 0, 'P'},
        {"sessions", required_argument, 0, 'n'}, {"depth", required_argument, 0, 'd'},
        {"size", required_argument, 0, 's'},    {"rate", required_argument, 0, 'r'},
        {"warmup", required_argument, 0, 'w'},  {"seconds", required_argument, 0, 't'},
        {"plain", no_argument, 0, 'c'},         {"resume", no_argument, 0, 'R'},
        {"patience", required_argument, 0, 'T'}, {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'p': option.target.port = (uint16_t)atoi(optarg); break;
        case 'P': option.target.path = optarg; break;
        case 'n': option.sessions = (uint32_t)atoi(optarg); break;
        case 'd': option.depth = (uint32_t)atoi(optarg); break;
        case 's': option.size = (size_t)atol(optarg); break;
        case 'r': option.rate = atof(optarg); break;
        case 'w': option.warmup = atof(optarg); break;
        case 't': option.seconds = atof(optarg); break;
        case 'T': option.patience = atof(optarg); break;
        case 'c': option.target.plain = true; break;
        case 'R': option.target.resume = true; break;
        default: exit(2);
        }
    }
    if (optind != argc - 1)
        fail("usage: load drive MODE --port N [--plain] [--resume] [--sessions N] [--size BYTES] "
             "[--depth N] [--rate PER_SECOND] [--warmup S] [--seconds S] [--patience S]");
    option.mode = mode_named(argv[optind]);
    option.target.silent = option.mode == SHAKE;
    if (option.mode == GET || option.mode == POST)
        option.target.method = option.mode == GET ? "GET" : "POST";
    if (option.target.port == 0 || option.sessions == 0 || option.depth == 0 || option.rate <= 0 ||
        option.size < MESSAGE_HEAD || option.size > MESSAGE_MAX)
        fail("an option is out of its range");
}

int drive_main(int argc, char **argv) {
    static const struct story story = {on_opened, on_message, on_closed};
    parse(argc, argv);
    loop = epoll_create1(EPOLL_CLOEXEC);
    sessions = calloc(option.sessions, sizeof *sessions);
    if (sessions == NULL || loop < 0)
        fail("no memory for %u sessions", option.sessions);
    sessions_init(loop, &option.target, &story);
    open_all();
    begin_work();
    double seconds = option.mode == IDLE ? hold() : measure();
    settle();
    report(seconds);
    return 0;
}
