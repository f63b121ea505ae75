/* Datagrams there and back, through an association or without a proxy.
 *
 * A datagram that does not come back in time is counted as lost, and another takes its place; what
 * comes after that is counted as late, never as a round trip. */
#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64
#define HEADER_BYTES 10 /* RSV FRAG ATYP, address, port (RFC 1928 section 7) */
#define DATAGRAM_BYTES 2048
#define LOST_AFTER_NS 50000000ull /* far beyond p99: long waits would measure this number */

/* What a payload begins with; the rest of it follows from the sequence. */
struct mark {
    uint64_t slot, sequence;
};

struct flight {
    uint64_t sequence, sent_ns;
};

static const struct options *chosen;
static struct watch watch;
static struct connection control;
static struct flight flights[1024];
static unsigned char outgoing[BATCH][DATAGRAM_BYTES], incoming[BATCH][DATAGRAM_BYTES];
static struct iovec parts_out[BATCH], parts_in[BATCH];
static struct mmsghdr messages_out[BATCH], messages_in[BATCH];
static size_t queued, header_bytes;
static uint64_t sequence, lost, late, began_ns, end_ns, last_ns;
static int live;

static void flush(void) {
    for (size_t done = 0; done < queued;) {
        int count = sendmmsg(watch.fd, messages_out + done, (unsigned)(queued - done), 0);
        if (count > 0) {
            done += (size_t)count;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            struct pollfd room = {.fd = watch.fd, .events = POLLOUT};
            poll(&room, 1, 100);
        } else if (errno != ECONNREFUSED) { /* that one tells of an earlier datagram */
            give_up("send: %s", strerror(errno));
        }
    }
    queued = 0;
}

static void launch(uint64_t slot, uint64_t now) {
    if (chosen->count ? sequence >= chosen->count : now >= end_ns) {
        flights[slot].sequence = 0;
        if (--live == 0)
            loop_stop();
        return;
    }
    struct mark mark = {slot, ++sequence};
    unsigned char *payload = outgoing[queued] + header_bytes;
    flights[slot] = (struct flight){sequence, now};
    memcpy(payload, &mark, sizeof mark);
    stream_fill(sequence, 0, payload + sizeof mark, 8);
    parts_out[queued].iov_len = header_bytes + (size_t)chosen->payload;
    if (++queued == BATCH)
        flush();
}

/* Whether a datagram is as long as one of ours, whole, and from the target. */
static bool is_echo(const unsigned char *data, size_t count) {
    if (count != header_bytes + (size_t)chosen->payload)
        return false;
    return !header_bytes || (data[2] == 0 && memcmp(data + 3, outgoing[0] + 3, 7) == 0);
}

static void landed(const unsigned char *data, size_t count, uint64_t now) {
    struct mark mark;
    unsigned char expected[8];
    if (!is_echo(data, count))
        give_up("a datagram of %zu bytes is no echo, or does not name the target", count);
    memcpy(&mark, data + header_bytes, sizeof mark);
    stream_fill(mark.sequence, 0, expected, sizeof expected);
    if (mark.slot >= (uint64_t)chosen->flight || mark.sequence > sequence ||
        memcmp(data + header_bytes + sizeof mark, expected, sizeof expected) != 0)
        give_up("the echo of a datagram is not what was sent");
    struct flight *flight = &flights[mark.slot];
    if (flight->sequence != mark.sequence) {
        late++;
        return;
    }
    note_ns(now - flight->sent_ns);
    last_ns = now;
    launch(mark.slot, now);
}

static void readable(struct watch *watch, unsigned events) {
    int count = recvmmsg(watch->fd, messages_in, BATCH, MSG_DONTWAIT, NULL);
    uint64_t now = now_ns();
    (void)events;
    if (count < 0 && errno != EAGAIN && errno != ECONNREFUSED)
        give_up("receive: %s", strerror(errno));
    for (int i = 0; i < count; i++)
        landed(incoming[i], messages_in[i].msg_len, now);
    flush();
}

static void look_for_lost(void) {
    uint64_t now = now_ns();
    for (uint64_t slot = 0; slot < (uint64_t)chosen->flight; slot++) {
        if (!flights[slot].sequence || now - flights[slot].sent_ns < LOST_AFTER_NS)
            continue;
        lost++;
        launch(slot, now);
    }
    flush();
}

static void start(struct sockaddr_in relay) {
    struct sockaddr_in target = loopback(chosen->target);
    int room = 4 << 20;
    watch.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    watch.ready = readable;
    if (watch.fd < 0 || connect(watch.fd, (struct sockaddr *)&relay, sizeof relay) < 0)
        give_up("datagrams: %s", strerror(errno));
    setsockopt(watch.fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    for (size_t i = 0; i < BATCH; i++) {
        outgoing[i][3] = 1; /* without a proxy the payload overwrites this header */
        memcpy(outgoing[i] + 4, &target.sin_addr, 4);
        memcpy(outgoing[i] + 8, &target.sin_port, 2);
        parts_out[i].iov_base = outgoing[i];
        parts_in[i] = (struct iovec){incoming[i], DATAGRAM_BYTES};
        messages_out[i].msg_hdr = (struct msghdr){.msg_iov = &parts_out[i], .msg_iovlen = 1};
        messages_in[i].msg_hdr = (struct msghdr){.msg_iov = &parts_in[i], .msg_iovlen = 1};
    }
    watch_add(&watch, EPOLLIN);
    began_ns = now_ns();
    end_ns = after_ns(chosen->seconds);
    live = chosen->flight;
    for (uint64_t slot = 0; slot < (uint64_t)chosen->flight; slot++)
        launch(slot, began_ns);
    flush();
}

static void associated(struct connection *connection) {
    struct sockaddr_in relay = connection->bound;
    if (relay.sin_family != AF_INET || !relay.sin_port)
        give_up("UDP ASSOCIATE was answered without an IPv4 address and port");
    if (!relay.sin_addr.s_addr) /* some announce 0.0.0.0, and mean where we reached them */
        relay.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    start(relay);
}

static void control_ended(struct connection *connection, unsigned events) {
    (void)connection, (void)events;
    give_up("the association's TCP connection ended");
}

void run_udp(const struct options *options) {
    chosen = options;
    header_bytes = options->dialect == DIRECT ? 0 : HEADER_BYTES;
    if (options->dialect == DIRECT) {
        start(loopback(options->target));
    } else {
        control = (struct connection){.opened = associated,
                                      .readable = control_ended,
                                      .options = options,
                                      .command = UDP_ASSOCIATE};
        connection_open(&control);
    }
    loop_run(options->patience, look_for_lost);
    double seconds = (double)(last_ns - began_ns) / 1e9; /* not until the last is given up */
    if (!noted())
        give_up("none of %ju datagrams came back", (uintmax_t)lost);
    printf("{\"count\": %zu, \"seconds\": %.6f, \"lost\": %ju, \"late\": %ju, "
           "\"p50_ms\": %.4f, \"p99_ms\": %.4f}\n",
           noted(), seconds, (uintmax_t)lost, (uintmax_t)late, percentile_ms(50),
           percentile_ms(99));
}
