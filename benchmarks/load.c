/* load: members of chat rooms over WebSockets on loopback, in one thread. It is what the benchmarks load servers with.

   It opens all members, waits until nothing has come in for a while and prints {"joined": ...}. Then it waits for a
   line on its standard input, lets the talkers talk and prints {"measured": ...}. It goes on reading until its input
   ends, so that whoever started it can look at the server meanwhile.

   A talker has `in-flight` messages under way: its own copy coming back lets it send the next one. Each message carries
   its talker, its number and when it was sent, so every single delivery is checked for loss and order and timed.
   The clock of a measurement stops with the last delivery. A message is one frame and one write, as a real client's is.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    OPENING_AT_ONCE = 32,      /* handshakes under way: below every server's backlog */
    EVENTS_A_TURN = 512,
    EVENTS_A_PROBE = 16,       /* the probe is looked at after so many events, so that the crowd does not delay it */
    MEMBERS_A_SOURCE = 20000,  /* one source address has about 28,000 ports */
    STALLED_RCVBUF_BYTES = 4096,
    MARK_BYTES = 18,           /* '@', talker (4), number (5), time (8), each in 6 bits a character */
    LARGEST_FRAME_BYTES = 8 << 20,
    PROGRESS_S = 10,           /* so long without a single delivery, and what is missing counts as lost */
};

enum phase { CLOSED, UPGRADING, GREETING, OPEN };

struct member {
    int fd;
    enum phase phase;
    bool stalled;
    int room;
    unsigned char *rest;   /* the start of a frame whose end has not come */
    size_t rest_bytes;
    uint32_t *next;        /* by the talkers of its room: the number of the next message */
};

struct talker {
    struct member *member;
    int ordinal;           /* among the talkers of its room */
    uint32_t sent, echoed, until;
};

/* What a dialect puts around the content, and its own conversation. */
struct dialect {
    const char *name, *path, *before, *after;
    const char *hello;     /* said once the connection is open */
    const char *ready;     /* how the frame begins that means: joined; NULL if the upgrade does */
    const char *ping, *pong;
};

static const struct dialect dialects[] = {
    {"plain", "/ws/%r?username=%u", "", "", NULL, NULL, NULL, NULL},
    /* Engine.IO 4 with Socket.IO 5 in it: 40 connects to the namespace, 42 is an event. */
    {"socketio", "/socket.io/?EIO=4&transport=websocket&room=%r&username=%u",
     "42[\"chat\",\"", "\"]", "40", "40", "2", "3"},
};

static const struct dialect *dialect = &dialects[0];
static int port, members = 100, rooms = 1, talkers = 1, in_flight = 1, stalled, server_pid;
static size_t content_bytes = 64;
static long messages;  /* a talker's in a measurement, 0 for as many as fit into its time */
static double seconds = 2, warmup_s = 0.5, settle_s = 1.5, gap_s = -1, probe_interval_s;
static uint64_t seed = 1;

static struct member *all;        /* the members, then the two of the probe */
static struct talker *talking_members;
static int *listeners;            /* by room: members that read */
static int epoll_fd, probe_fd;
static int opened, opening;
static bool is_talking, is_probing;
static uint64_t now_ns, epoch_ns, last_frame_ns, last_delivery_ns, probe_due_ns;
static uint64_t expected, delivered, sent, disordered, lost_connections, other_frames, bytes_in;
static int stalled_ended;
static int closes[5000];          /* by close code */
static int8_t digit[256];
static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time)) die("no such clock; has the server ended?");
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t look_at_clock(void) { return now_ns = clock_ns(CLOCK_MONOTONIC); }

static uint64_t random_bits(void) {  /* xorshift64 */
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* -- times, in buckets each 1/64 wide of its lower end ------------------------------------------------------------ */

struct histogram { uint64_t count, largest, buckets[64 * 60]; };
static struct histogram waits, probe_waits, idle_probe_waits;

static void add(struct histogram *histogram, uint64_t value) {
    unsigned at = (unsigned)value;
    if (value >= 64) {
        unsigned shift = 57 - (unsigned)__builtin_clzll(value);
        at = (shift + 1) * 64 + (unsigned)(value >> shift) - 64;
    }
    histogram->buckets[at]++;
    histogram->count++;
    if (value > histogram->largest) histogram->largest = value;
}

/* In milliseconds, 0 of nothing. */
static double quantile_ms(const struct histogram *histogram, double quantile) {
    uint64_t rank = (uint64_t)(quantile * (double)histogram->count), seen = 0;
    for (unsigned at = 0; at < 64 * 60; at++) {
        seen += histogram->buckets[at];
        if (seen > rank) {
            if (at < 64) return at / 1e6;
            unsigned shift = at / 64 - 1;
            return ((double)((uint64_t)(at % 64 + 64) << shift) + (double)(1ull << shift) / 2) / 1e6;
        }
    }
    return 0;
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

static void send_frame(struct member *member, int opcode, const char *payload, size_t length) {
    unsigned char frame[8 + 65536];
    size_t at = 0;
    if (length > 65535) die("%zu bytes are too many for one frame", length);
    frame[at++] = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        frame[at++] = (unsigned char)(0x80 | length);
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = (unsigned char)(length >> 8);
        frame[at++] = (unsigned char)length;
    }
    uint32_t bits = (uint32_t)random_bits();
    unsigned char *mask = frame + at;
    memcpy(mask, &bits, 4);
    at += 4;
    for (size_t i = 0; i < length; i++) frame[at + i] = (unsigned char)payload[i] ^ mask[i & 3];
    at += length;
    ssize_t went = send(member->fd, frame, at, MSG_NOSIGNAL);
    /* That a server puts a talker out is seen when reading; one that does not read cannot be measured. */
    if (went < 0 && (errno == EPIPE || errno == ECONNRESET)) return;
    if (went != (ssize_t)at) die("the server does not read: a write of %zu bytes was taken in part", at);
}

static char *put(char *at, uint64_t value, int characters) {
    for (int i = characters - 1; i >= 0; i--, value >>= 6) at[i] = alphabet[value & 63];
    return at + characters;
}

static void send_message(struct member *member, int talker, uint32_t number) {
    static char text[65536];
    char *at = stpcpy(text, dialect->before);
    char *end = at + content_bytes;
    *at++ = '@';
    at = put(at, (uint64_t)talker, 4);
    at = put(at, number, 5);
    at = put(at, look_at_clock() - epoch_ns, 8);
    while (at < end) *at++ = 'x';
    at = stpcpy(at, dialect->after);
    send_frame(member, 1, text, (size_t)(at - text));
}

static void talk(struct talker *talker) {
    while (is_talking && talker->sent < talker->until && talker->sent - talker->echoed < (uint32_t)in_flight) {
        int number = (int)(talker - talking_members);
        expected += (uint64_t)listeners[talker->member->room];
        sent++;
        send_message(talker->member, number, talker->sent++);
    }
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

static void over(struct member *member) {
    if (member->phase != OPEN) die("a connection ended while it was opened");
    member->phase = CLOSED;
    close(member->fd);
    if (member->stalled) stalled_ended++;
    else lost_connections++;
}

static uint64_t take(const unsigned char *at, int characters) {
    uint64_t value = 0;
    for (int i = 0; i < characters; i++) value = value << 6 | (uint64_t)(digit[at[i]] & 63);
    return value;
}

static void heard(struct member *member, const unsigned char *payload, size_t length) {
    const unsigned char *mark = memchr(payload, '@', length);
    if (!mark || (size_t)(payload + length - mark) < MARK_BYTES) {
        other_frames++;
        last_frame_ns = now_ns;
        return;
    }
    int from = (int)take(mark + 1, 4);
    uint32_t number = (uint32_t)take(mark + 5, 5);
    uint64_t wait = now_ns - epoch_ns - take(mark + 10, 8);
    if (from > talkers) die("a message of talker %d, who does not exist", from);
    bool is_probes = from == talkers;
    struct talker *talker = &talking_members[from];
    if (member->room != (is_probes ? rooms : talker->member->room)) die("a message of another room");
    if (is_probes) {  /* its second member listens */
        if (is_probing && member == &all[members + 1])
            add(delivered < expected ? &probe_waits : &idle_probe_waits, wait);
        return;
    }
    uint32_t *next = &member->next[talker->ordinal];
    if (number != *next) disordered++;
    if (number < *next) return;
    *next = number + 1;
    if (member->stalled) return;
    delivered++;
    last_delivery_ns = now_ns;
    add(&waits, wait);
    if (talker->member == member) {
        talker->echoed = number + 1;
        if (gap_s < 0) talk(talker);
    }
}

static void on_frame(struct member *member, int opcode, const unsigned char *payload, size_t length) {
    switch (opcode) {
    case 1:
        if (member->phase == GREETING) {
            if (length >= strlen(dialect->ready) && memcmp(payload, dialect->ready, strlen(dialect->ready)) == 0) {
                member->phase = OPEN;
                opened++;
                opening--;
            }
            return;
        }
        if (dialect->ping && length == strlen(dialect->ping) && memcmp(payload, dialect->ping, length) == 0) {
            send_frame(member, 1, dialect->pong, strlen(dialect->pong));
            return;
        }
        heard(member, payload, length);
        return;
    case 8: {
        int code = length >= 2 ? payload[0] << 8 | payload[1] : 1005;
        closes[code < 5000 ? code : 0]++;
        return;  /* the end of the stream follows */
    }
    case 9:
        send_frame(member, 10, (const char *)payload, length);
        return;
    case 10:
        return;
    default:
        die("a frame of opcode %d: only whole text frames and control frames are expected", opcode);
    }
}

/* Work off whole frames; return how many bytes they were. */
static size_t read_frames(struct member *member, const unsigned char *data, size_t length) {
    size_t at = 0;
    while (length - at >= 2) {
        const unsigned char *frame = data + at;
        size_t head = 2, payload = frame[1];
        if (payload == 126) {
            head = 4;
            if (length - at < head) break;
            payload = (size_t)frame[2] << 8 | frame[3];
        } else if (payload == 127) {
            head = 10;
            if (length - at < head) break;
            payload = 0;
            for (int i = 2; i < 10; i++) payload = payload << 8 | frame[i];
        } else if (payload > 127) {
            die("a masked frame from a server");
        }
        if (payload > LARGEST_FRAME_BYTES - 16) die("a frame of %zu bytes", payload);
        if ((frame[0] & 0xf0) != 0x80) die("a fragment or a compressed frame: neither was asked for");
        if (length - at < head + payload) break;
        at += head + payload;
        on_frame(member, frame[0] & 15, frame + head, payload);
        if (member->phase == CLOSED) break;
    }
    return at;
}

static size_t read_upgrade(struct member *member, const unsigned char *data, size_t length) {
    const unsigned char *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) return 0;
    if (length < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0)
        die("no upgrade: %.*s", (int)(length < 300 ? length : 300), data);
    if (dialect->hello) {
        member->phase = GREETING;
        send_frame(member, 1, dialect->hello, strlen(dialect->hello));
    } else {
        member->phase = OPEN;
        opened++;
        opening--;
    }
    return (size_t)(end + 4 - data);
}

/* False once there is nothing more to read. */
static bool read_once(struct member *member) {
    static unsigned char inbox[LARGEST_FRAME_BYTES];
    size_t have = member->rest_bytes;
    if (have) {
        memcpy(inbox, member->rest, have);
        free(member->rest);
        member->rest = NULL;
        member->rest_bytes = 0;
    }
    ssize_t came = recv(member->fd, inbox + have, sizeof inbox - have, 0);
    look_at_clock();
    bool is_empty = came < 0 && errno == EAGAIN;
    if (came <= 0 && !is_empty) {
        over(member);
        return false;
    }
    if (came > 0) bytes_in += (uint64_t)came, have += (size_t)came;
    size_t at = 0;
    if (member->phase == UPGRADING) at = read_upgrade(member, inbox, have);
    if (member->phase != UPGRADING) at += read_frames(member, inbox + at, have - at);
    if (member->phase != CLOSED && at < have) {
        member->rest_bytes = have - at;
        member->rest = malloc(member->rest_bytes);
        if (!member->rest) die("out of memory");
        memcpy(member->rest, inbox + at, member->rest_bytes);
    }
    return !is_empty && member->phase != CLOSED;
}

/* Events are edge-triggered, which spares a look at each socket that was read. A read takes all there is, so one is
   enough unless the end has come: that is no second event. */
static void read_member(const struct epoll_event *event) {
    struct member *member = &all[event->data.u32];
    bool to_end = event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    while (member->phase != CLOSED && read_once(member) && to_end) {}
}

static void probe(void) {
    struct epoll_event events[2];
    int count = epoll_wait(probe_fd, events, 2, 0);
    for (int i = 0; i < count; i++) read_member(&events[i]);
    if (is_probing && look_at_clock() >= probe_due_ns) {
        probe_due_ns = now_ns + (uint64_t)(probe_interval_s * 1e9);
        send_message(&all[members], talkers, 0);
    }
}

/* Wait up to `most_ms` for something to come in, and work it off. */
static void turn(int most_ms) {
    static struct epoll_event events[EVENTS_A_TURN];
    int count = epoll_wait(epoll_fd, events, EVENTS_A_TURN, is_probing ? 1 : most_ms);
    for (int i = 0; i < count; i++) {
        if (probe_interval_s > 0 && i % EVENTS_A_PROBE == 0) probe();
        if (events[i].data.u32 < UINT32_MAX) read_member(&events[i]);
    }
    if (probe_interval_s > 0) probe();
    look_at_clock();
}

/* -- the course of things ----------------------------------------------------------------------------------------- */

static void allow_open_files(rlim_t wanted) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= wanted) return;
    struct rlimit raised = {wanted, limit.rlim_max > wanted ? limit.rlim_max : wanted};
    if (setrlimit(RLIMIT_NOFILE, &raised))
        die("%lu open files are needed and %lu allowed: raise the hard limit (ulimit -Hn)", (unsigned long)wanted,
            (unsigned long)limit.rlim_max);
}

static void watch(int epoll, int fd, uint32_t what) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = what};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void open_member(int at) {
    struct member *member = &all[at];
    member->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (member->fd < 0) die("socket: %s", strerror(errno));
    int on = 1, small = STALLED_RCVBUF_BYTES;
    setsockopt(member->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(member->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    /* Ending with a reset leaves no port in TIME_WAIT for the next run. */
    struct linger reset = {1, 0};
    setsockopt(member->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (member->stalled) setsockopt(member->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(at / MEMBERS_A_SOURCE));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(member->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    if (connect(member->fd, (struct sockaddr *)&to, sizeof to)) die("connect: %s", strerror(errno));
    fcntl(member->fd, F_SETFL, O_NONBLOCK);
    char target[512], request[1024], *out = target;
    for (const char *in = dialect->path; *in && out < target + 400; in++) {
        if (in[0] == '%' && in[1] == 'r') out += sprintf(out, "room%d", member->room), in++;
        else if (in[0] == '%' && in[1] == 'u') out += sprintf(out, "u%d", at), in++;
        else *out++ = *in;
    }
    *out = 0;
    /* The key is the one of RFC 6455's example: nothing here depends on it. */
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", target, port);
    member->phase = UPGRADING;
    opening++;
    if (send(member->fd, request, (size_t)length, MSG_NOSIGNAL) != length) die("the server takes no request");
    watch(at < members ? epoll_fd : probe_fd, member->fd, (uint32_t)at);
}

/* Members go to rooms in turn; who talks and who stalls is drawn by lot: no place in a server's order is special. */
static void cast(void) {
    all = calloc((size_t)members + 2, sizeof *all);
    talking_members = calloc((size_t)talkers + 1, sizeof *talking_members);
    listeners = calloc((size_t)rooms, sizeof *listeners);
    if (!all || !talking_members || !listeners) die("out of memory");
    int *order = calloc((size_t)(members / rooms) + 1, sizeof *order), talker = 0;
    if (!order) die("out of memory");
    for (int room = 0; room < rooms; room++) {
        int here = 0;
        int talking = talkers / rooms + (room < talkers % rooms);
        int silent = stalled / rooms + (room < stalled % rooms);
        for (int at = room; at < members; at += rooms) order[here++] = at;
        if (talking + silent > here)
            die("room %d has %d members: too few for %d talkers and %d stalled", room, here, talking, silent);
        for (int i = here - 1; i > 0; i--) {
            int other = (int)(random_bits() % (uint64_t)(i + 1)), held = order[i];
            order[i] = order[other];
            order[other] = held;
        }
        for (int i = 0; i < here; i++) {
            struct member *member = &all[order[i]];
            member->room = room;
            member->next = calloc((size_t)talking + 1, sizeof *member->next);
            if (!member->next) die("out of memory");
            if (i < talking) {
                talking_members[talker++] = (struct talker){.member = member, .ordinal = i};
            } else if (i < talking + silent) {
                member->stalled = true;
            }
        }
        listeners[room] = here - silent;
    }
    free(order);
    /* The probe's two have a room of their own, after the others. */
    all[members].room = all[members + 1].room = rooms;
}

static void open_all(void) {
    int count = members + (probe_interval_s > 0 ? 2 : 0);
    for (int at = 0; at < count; at++) {
        while (opening >= OPENING_AT_ONCE) turn(1000);
        open_member(at);
        turn(0);
    }
    uint64_t since = look_at_clock();
    while (opened < count) {
        turn(1000);
        if (now_ns - since > 60000000000u) die("only %d of %d connections were opened", opened, count);
    }
    last_frame_ns = look_at_clock();
    while ((double)(now_ns - last_frame_ns) / 1e9 < settle_s) turn(20);
}

/* Read on until a line comes, false if the input ends first. */
static bool wait_for_line(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    for (;;) {
        turn(20);
        if (poll(&input, 1, 0) > 0) {
            char byte = 0;
            ssize_t came = read(0, &byte, 1);
            if (came <= 0) return false;
            if (byte == '\n') return true;
        }
    }
}

/* Let everybody talk for so long, or so many messages, then wait for the last delivery. */
static void run(double most_s, long most_messages) {
    memset(&waits, 0, sizeof waits);
    memset(&probe_waits, 0, sizeof probe_waits);
    memset(&idle_probe_waits, 0, sizeof idle_probe_waits);
    expected = delivered = sent = disordered = other_frames = bytes_in = 0;
    uint64_t began = last_delivery_ns = look_at_clock();
    is_talking = true;
    for (int i = 0; i < talkers; i++) {
        talking_members[i].until = most_messages ? talking_members[i].sent + (uint32_t)most_messages : UINT32_MAX;
        if (gap_s < 0) talk(&talking_members[i]);
    }
    for (;;) {
        bool is_done = true;
        if (most_messages)
            for (int i = 0; i < talkers && is_done; i++) is_done = talking_members[i].sent == talking_members[i].until;
        else
            is_done = (double)(now_ns - began) / 1e9 >= most_s;
        if (is_done) is_talking = false;
        if (is_done && delivered >= expected) break;
        if (now_ns - last_delivery_ns > PROGRESS_S * 1000000000ull) break;
        bool is_due = gap_s >= 0 && delivered == expected && (double)(now_ns - last_delivery_ns) / 1e9 >= gap_s;
        for (int i = 0; i < talkers && is_due; i++) talk(&talking_members[i]);
        turn(gap_s >= 0 ? 1 : 100);
    }
    is_talking = false;
}

static void finish_stalled(void) {
    uint64_t until = look_at_clock() + 15000000000u;
    for (int at = 0; at < members; at++)
        if (all[at].stalled) watch(epoll_fd, all[at].fd, (uint32_t)at);
    while (stalled_ended < stalled && now_ns < until) turn(100);
}

static void measure(void) {
    clockid_t server_clock = CLOCK_MONOTONIC;
    if (server_pid && clock_getcpuclockid(server_pid, &server_clock)) die("there is no process %d", server_pid);
    if (warmup_s > 0) {
        run(warmup_s, 0);
        if (delivered != expected || disordered)
            die("while warming up, %lu of %lu deliveries came, %lu out of order", delivered, expected, disordered);
    }
    uint64_t began = look_at_clock(), own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t server = server_pid ? clock_ns(server_clock) : 0;
    probe_due_ns = began;
    is_probing = probe_interval_s > 0;
    lost_connections = 0;
    run(seconds, messages);
    is_probing = false;
    own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    server = server_pid ? clock_ns(server_clock) - server : 0;
    double lasted = (double)(last_delivery_ns - began) / 1e9, measured = (double)(look_at_clock() - began) / 1e9;
    uint64_t others = other_frames;
    if (stalled) finish_stalled();
    printf("{\"measured\": {\"began_s\": %.6f, \"lasted_s\": %.6f, \"sent\": %lu, ", (double)began / 1e9, lasted, sent);
    printf("\"expected\": %lu, \"delivered\": %lu, ", expected, delivered);
    printf("\"disordered\": %lu, \"lost_connections\": %lu, \"other_frames\": %lu, \"bytes\": %lu, ",
           disordered, lost_connections, others, bytes_in);
    printf("\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, \"load_core_share\": %.3f, \"server_cpu_s\": %.6f",
           quantile_ms(&waits, 0.5), quantile_ms(&waits, 0.99), (double)waits.largest / 1e6,
           (double)own / 1e9 / measured, (double)server / 1e9);
    if (probe_interval_s > 0) {
        printf(", \"probe\": {\"count\": %lu, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, ",
               probe_waits.count, quantile_ms(&probe_waits, 0.5), quantile_ms(&probe_waits, 0.99),
               (double)probe_waits.largest / 1e6);
        printf("\"idle_count\": %lu, \"idle_p99_ms\": %.4f}", idle_probe_waits.count,
               quantile_ms(&idle_probe_waits, 0.99));
    }
    if (stalled) {
        printf(", \"stalled_ended\": %d, \"closes\": {", stalled_ended);
        const char *comma = "";
        for (int code = 0; code < 5000; code++)
            if (closes[code]) printf("%s\"%d\": %d", comma, code, closes[code]), comma = ", ";
        printf("}");
    }
    printf("}}\n");
    fflush(stdout);
}

static void usage(void) {
    die("usage: load --port N [--dialect plain|socketio] [--members N] [--rooms N] [--talkers N] [--in-flight N]\n"
        "  [--bytes N] [--seconds S | --messages N] [--warmup S] [--settle S] [--seed N] [--server-pid PID]\n"
        "  [--stalled N]        so many members read nothing while the others talk\n"
        "  [--gap S]            a talker's next message goes out S after everybody got the last one\n"
        "  [--probe INTERVAL_S] two more members in a room of their own, where one says something this often");
}

int main(int count, char **arguments) {
    enum {
        PORT = 1, DIALECT, MEMBERS, ROOMS, TALKERS, IN_FLIGHT, BYTES, SECONDS, MESSAGES, WARMUP, SETTLE, SEED,
        SERVER_PID, STALLED, GAP, PROBE,
    };
    static const struct option options[] = {
        {"port", 1, 0, PORT}, {"dialect", 1, 0, DIALECT}, {"members", 1, 0, MEMBERS}, {"rooms", 1, 0, ROOMS},
        {"talkers", 1, 0, TALKERS}, {"in-flight", 1, 0, IN_FLIGHT}, {"bytes", 1, 0, BYTES}, {"seconds", 1, 0, SECONDS},
        {"messages", 1, 0, MESSAGES}, {"warmup", 1, 0, WARMUP}, {"settle", 1, 0, SETTLE}, {"seed", 1, 0, SEED},
        {"server-pid", 1, 0, SERVER_PID}, {"stalled", 1, 0, STALLED}, {"gap", 1, 0, GAP}, {"probe", 1, 0, PROBE},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case PORT: port = atoi(optarg); break;
        case DIALECT:
            dialect = NULL;
            for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
                if (!strcmp(optarg, dialects[i].name)) dialect = &dialects[i];
            if (!dialect) usage();
            break;
        case MEMBERS: members = atoi(optarg); break;
        case ROOMS: rooms = atoi(optarg); break;
        case TALKERS: talkers = atoi(optarg); break;
        case IN_FLIGHT: in_flight = atoi(optarg); break;
        case BYTES: content_bytes = (size_t)atoi(optarg); break;
        case SECONDS: seconds = atof(optarg); break;
        case MESSAGES: messages = atol(optarg); break;
        case WARMUP: warmup_s = atof(optarg); break;
        case SETTLE: settle_s = atof(optarg); break;
        case SEED: seed = 0x9e3779b97f4a7c15u * (strtoull(optarg, NULL, 10) + 1); break;
        case SERVER_PID: server_pid = atoi(optarg); break;
        case STALLED: stalled = atoi(optarg); break;
        case GAP: gap_s = atof(optarg); break;
        case PROBE: probe_interval_s = atof(optarg); break;
        default: usage();
        }
    }
    if (!port || optind != count || members < 1 || rooms < 1 || rooms > members || talkers < 0 || in_flight < 1)
        usage();
    if (content_bytes < MARK_BYTES || content_bytes > 60000) die("a message has %d to 60000 bytes", MARK_BYTES);
    for (int i = 0; i < 64; i++) digit[(unsigned char)alphabet[i]] = (int8_t)i;
    allow_open_files((rlim_t)members + 64);
    epoll_fd = epoll_create1(0);
    probe_fd = epoll_create1(0);
    struct epoll_event either = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, probe_fd, &either)) die("epoll_ctl: %s", strerror(errno));
    epoch_ns = look_at_clock();
    cast();
    open_all();
    printf("{\"joined\": {\"members\": %d, \"took_s\": %.3f, \"frames\": %lu, \"bytes\": %lu}}\n", members,
           (double)(last_frame_ns - epoch_ns) / 1e9, other_frames, bytes_in);
    fflush(stdout);
    if (!wait_for_line()) return 0;
    for (int at = 0; at < members; at++)
        if (all[at].stalled) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, all[at].fd, NULL);
    measure();
    while (wait_for_line()) {}
    return 0;
}
