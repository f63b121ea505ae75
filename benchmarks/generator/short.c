/* Short connections: dial, handshake, 64 bytes there and back, close; then the next one. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define PING_BYTES 64
#define FAILURES 100 /* so many, and more than went well: there is nothing to measure */

static unsigned char ping[PING_BYTES];
static const struct options *chosen;
static uint64_t end_ns, begun;
static size_t failures;
static int live;
static char reason[256];

static void next(struct connection *connection) {
    if (chosen->count ? begun < chosen->count : now_ns() < end_ns) {
        begun++;
        connection_open(connection);
    } else if (--live == 0) {
        loop_stop();
    }
}

static void failed(struct connection *connection, const char *why) {
    snprintf(reason, sizeof reason, "%s", why);
    if (++failures > FAILURES && failures > noted())
        give_up("%s", why);
    next(connection);
}

static void opened(struct connection *connection) {
    connection->have = 0;
    send_whole(connection, ping, sizeof ping);
}

static void readable(struct connection *connection, unsigned events) {
    ssize_t got = recv(connection->watch.fd, connection->reply + connection->have,
                       PING_BYTES - connection->have, 0);
    (void)events;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        connection_fail(connection, "echo: %s", got ? strerror(errno) : "closed too early");
        return;
    }
    connection->have += (size_t)got;
    if (connection->have < PING_BYTES)
        return;
    if (memcmp(connection->reply, ping, PING_BYTES) != 0)
        give_up("the echo is not what was sent");
    note_ns(now_ns() - connection->began_ns);
    connection_close(connection);
    next(connection);
}

void run_short(const struct options *options) {
    size_t count = (size_t)options->connections;
    struct connection *connections = allocate(count, sizeof *connections);
    uint64_t began_ns = now_ns();
    stream_fill(1, 0, ping, sizeof ping);
    chosen = options;
    end_ns = after_ns(options->seconds);
    live = options->connections;
    for (size_t i = 0; i < count; i++) {
        connections[i] = (struct connection){
            .opened = opened, .readable = readable, .failed = failed, .options = options};
        next(&connections[i]);
    }
    if (live)
        loop_run(options->patience, NULL);
    double seconds = (double)(now_ns() - began_ns) / 1e9;
    if (!noted())
        give_up("%s", reason);
    printf("{\"count\": %zu, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, "
           "\"failures\": %zu, \"reason\": \"%s\"}\n",
           noted(), seconds, percentile_ms(50), percentile_ms(99), failures, reason);
}
