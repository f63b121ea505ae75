/* Bulk bytes, up or down, over some connections at once.
 *
 * They are ordered block by block, the next one before the last has come, so that none of them
 * ever waits. When the time is over no more are ordered, and what is under way is waited for:
 * bytes and seconds fit each other exactly, and every byte is accounted for. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BLOCKS_AHEAD 2

struct transfer {
    struct connection connection; /* first: a connection is cast back to its transfer */
    uint64_t seed;
    uint64_t ordered, moved; /* down: asked for, received. up: announced, sent */
    uint64_t confirmed;      /* up: what the sink says that it has had */
    uint64_t answer;         /* up: the answer that is being received, */
    size_t have;             /* and so much of it has come */
};

static unsigned char buffer[CHUNK];
static struct transfer *transfers;
static const struct options *chosen;
static int opened_count, live;
static uint64_t began_ns, end_ns;

static bool ordering(const struct transfer *transfer) {
    return chosen->bytes ? transfer->ordered < chosen->bytes : now_ns() < end_ns;
}

static void order(struct transfer *transfer) {
    uint64_t count = chosen->block;
    if (chosen->bytes && chosen->bytes - transfer->ordered < count)
        count = chosen->bytes - transfer->ordered;
    struct order order = {.count = count, .seed = transfer->seed};
    send_whole(&transfer->connection, &order, sizeof order);
    transfer->ordered += count;
}

static void finished(struct transfer *transfer) {
    connection_close(&transfer->connection);
    if (--live == 0)
        loop_stop();
}

static void receive(struct connection *connection, unsigned events) {
    struct transfer *transfer = (struct transfer *)connection;
    ssize_t got = recv(connection->watch.fd, buffer, sizeof buffer, chosen->compare ? 0 : MSG_TRUNC);
    (void)events;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        give_up("down: %s after %ju of %ju bytes", got ? strerror(errno) : "closed",
                (uintmax_t)transfer->moved, (uintmax_t)transfer->ordered);
    if (chosen->compare && !stream_equals(transfer->seed, transfer->moved, buffer, (size_t)got))
        give_up("down: a wrong byte after %ju", (uintmax_t)transfer->moved);
    transfer->moved += (uint64_t)got;
    if (transfer->moved > transfer->ordered)
        give_up("down: more bytes than were ordered");
    while (transfer->ordered - transfer->moved < (BLOCKS_AHEAD - 1) * chosen->block &&
           ordering(transfer))
        order(transfer);
    if (transfer->moved == transfer->ordered)
        finished(transfer);
}

static void take_answer(struct transfer *transfer) {
    ssize_t got = recv(transfer->connection.watch.fd, (char *)&transfer->answer + transfer->have,
                       sizeof transfer->answer - transfer->have, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        give_up("up: %s after %ju of %ju bytes", got ? strerror(errno) : "closed",
                (uintmax_t)transfer->confirmed, (uintmax_t)transfer->ordered);
    transfer->have += (size_t)got;
    if (transfer->have < sizeof transfer->answer)
        return;
    transfer->have = 0;
    transfer->confirmed = transfer->answer;
    if (transfer->confirmed == MISMATCH || transfer->confirmed > transfer->ordered)
        give_up("up: a wrong byte reached the sink");
}

static void send_more(struct transfer *transfer) {
    uint64_t left = transfer->ordered - transfer->moved;
    size_t part = left < CHUNK ? (size_t)left : CHUNK;
    if (chosen->compare)
        stream_fill(transfer->seed, transfer->moved, buffer, part);
    ssize_t sent = send(transfer->connection.watch.fd, buffer, part, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        give_up("up: %s", strerror(errno));
    transfer->moved += sent > 0 ? (uint64_t)sent : 0;
}

/* An order stands in the stream before its bytes, so it goes out when the last block has. */
static void exchange(struct connection *connection, unsigned events) {
    struct transfer *transfer = (struct transfer *)connection;
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        take_answer(transfer);
    if (events & EPOLLOUT) {
        if (transfer->moved == transfer->ordered && ordering(transfer))
            order(transfer);
        if (transfer->moved < transfer->ordered)
            send_more(transfer);
        if (transfer->moved == transfer->ordered && !ordering(transfer))
            watch_change(&connection->watch, EPOLLIN);
    }
    if (transfer->confirmed == transfer->ordered && !ordering(transfer))
        finished(transfer);
}

static void opened(struct connection *connection) {
    (void)connection;
    if (++opened_count < chosen->connections)
        return;
    began_ns = now_ns();
    end_ns = after_ns(chosen->seconds);
    for (int i = 0; i < chosen->connections; i++) {
        order(&transfers[i]);
        if (chosen->up)
            watch_change(&transfers[i].connection.watch, EPOLLIN | EPOLLOUT);
        else if (ordering(&transfers[i]))
            order(&transfers[i]);
    }
}

static void failed(struct connection *connection, const char *reason) {
    (void)connection;
    give_up("%s", reason);
}

void run_bulk(const struct options *options) {
    size_t count = (size_t)options->connections;
    uint64_t total = 0;
    transfers = allocate(count, sizeof *transfers);
    chosen = options;
    live = options->connections;
    for (size_t i = 0; i < count; i++) {
        transfers[i].seed = options->compare ? now_ns() | 1 : 0;
        transfers[i].connection =
            (struct connection){.opened = opened,
                                .readable = options->up ? exchange : receive,
                                .failed = failed,
                                .options = options};
        connection_open(&transfers[i].connection);
    }
    loop_run(options->patience, NULL);
    double seconds = (double)(now_ns() - began_ns) / 1e9;
    for (size_t i = 0; i < count; i++)
        total += transfers[i].moved;
    printf("{\"bytes\": %ju, \"seconds\": %.6f, \"compared\": %s}\n", (uintmax_t)total, seconds,
           options->compare ? "true" : "false");
}
