/* Ping-pong: one small message at a time and connection, answered before the next one is sent.
 * And idle connections: one ping each, then silence until our standard input ends. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIALED_AT_ONCE 64 /* idle connections: more would only measure the backlog */

static struct connection *connections;
static const struct options *chosen;
static int opened_count, ended, dialed;
static uint64_t end_ns;

static void failed(struct connection *connection, const char *reason) {
    (void)connection;
    give_up("%s, with %d connections open", reason, opened_count);
}

/* Receives a part of a pong; true when it is whole. */
static bool pong(struct connection *connection) {
    ssize_t got = recv(connection->watch.fd, connection->reply,
                       (size_t)chosen->payload - connection->have, 0);
    if (got < 0 && errno == EAGAIN)
        return false;
    if (got <= 0)
        give_up("echo: %s, with %d connections open", got ? strerror(errno) : "closed",
                opened_count);
    connection->have += (size_t)got;
    return connection->have == (size_t)chosen->payload;
}

static void ping(struct connection *connection) {
    static const unsigned char message[sizeof connection->reply];
    connection->have = 0;
    connection->began_ns = now_ns();
    send_whole(connection, message, (size_t)chosen->payload);
}

static void again(struct connection *connection, unsigned events) {
    (void)events;
    if (!pong(connection))
        return;
    uint64_t now = now_ns();
    note_ns(now - connection->began_ns);
    if (now < end_ns)
        ping(connection);
    else if (++ended == chosen->connections)
        loop_stop();
}

/* Nobody starts before all are there. */
static void opened(struct connection *connection) {
    (void)connection;
    if (++opened_count < chosen->connections)
        return;
    end_ns = after_ns(chosen->seconds);
    for (int i = 0; i < chosen->connections; i++)
        ping(&connections[i]);
}

static void prepare(const struct options *options) {
    chosen = options;
    connections = allocate((size_t)options->connections, sizeof *connections);
}

void run_ping(const struct options *options) {
    prepare(options);
    for (int i = 0; i < options->connections; i++) {
        connections[i] = (struct connection){
            .opened = opened, .readable = again, .failed = failed, .options = options};
        connection_open(&connections[i]);
    }
    loop_run(options->patience, NULL);
    printf("{\"count\": %zu, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", noted(), percentile_ms(50),
           percentile_ms(99));
}

static void fall_silent(struct connection *connection, unsigned events);

static void dial_next(void) {
    struct connection *connection = &connections[dialed++];
    *connection = (struct connection){
        .opened = ping, .readable = fall_silent, .failed = failed, .options = chosen};
    connection_open(connection);
}

static void fall_silent(struct connection *connection, unsigned events) {
    (void)events;
    if (!pong(connection))
        return;
    connection->have = 0; /* whatever comes now is the end of it */
    if (++opened_count == chosen->connections) {
        printf("{\"open\": %d}\n", opened_count);
        fflush(stdout);
    }
    if (dialed < chosen->connections)
        dial_next();
}

static void owner_left(struct watch *watch, unsigned events) {
    (void)watch, (void)events;
    loop_stop();
}

void run_idle(const struct options *options) {
    static struct watch owner = {.fd = STDIN_FILENO, .ready = owner_left};
    prepare(options);
    watch_add(&owner, EPOLLIN);
    while (dialed < options->connections && dialed < DIALED_AT_ONCE)
        dial_next();
    loop_run(0, NULL);
}
