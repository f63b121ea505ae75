/* The load generator: targets, and clients that reach them through a proxy or without one.
 *
 * One process is one role, single-threaded over epoll, on 127.0.0.1 alone; what it found goes to
 * standard output as one line of JSON. It is written so as not to be what limits a measurement:
 * bulk bytes are discarded in the kernel unless they are to be compared, datagrams move in batches.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

/* How a client asks the proxy for its target. */
enum dialect { DIRECT, SOCKS5, HTTP };

struct options {
    enum dialect dialect;
    int proxy;         /* port of the proxy */
    int target;        /* port of the target's service */
    const char *user;  /* RFC 1929: who logs in; NULL: nobody has to */
    const char *password;
    int connections;
    uint64_t count;    /* short, UDP: how many in all; 0: for as long as `seconds` */
    double seconds;    /* for how long new work begins */
    uint64_t bytes;    /* bulk: per connection; 0: for as long as `seconds` */
    uint64_t block;    /* bulk: how much is ordered at a time */
    bool up;           /* bulk: from client to target */
    bool compare;      /* bulk: every byte has one right value, and is looked at */
    int payload;       /* bytes of one ping, or of one datagram */
    int flight;        /* UDP: datagrams under way at once */
    double patience;   /* seconds without any event after which all is given up */
};

/* -- loop.c: readiness, time, failure -- */

struct watch {
    int fd;
    void (*ready)(struct watch *watch, unsigned events);
};

uint64_t now_ns(void);
uint64_t after_ns(double seconds);
void watch_add(struct watch *watch, unsigned events);
void watch_change(struct watch *watch, unsigned events);
void loop_run(double patience_seconds, void (*tick)(void)); /* tick: every 10 ms, or NULL */
void loop_stop(void);
_Noreturn void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *allocate(size_t count, size_t size);
struct sockaddr_in loopback(int port);

/* -- figures.c: durations and their percentiles -- */

void note_ns(uint64_t nanoseconds);
size_t noted(void);
double percentile_ms(double percent);

/* -- stream.c: content that can be checked at any place of a stream -- */

void stream_fill(uint64_t seed, uint64_t offset, unsigned char *data, size_t count);
bool stream_equals(uint64_t seed, uint64_t offset, const unsigned char *data, size_t count);

/* -- connection.c: a TCP connection to a target, by way of the proxy -- */

enum command { CONNECT = 1, UDP_ASSOCIATE = 3 }; /* RFC 1928 section 4 */

struct connection {
    struct watch watch; /* first: a watch is cast back to its connection */
    void (*opened)(struct connection *connection);
    void (*readable)(struct connection *connection, unsigned events);
    void (*failed)(struct connection *connection, const char *reason);
    const struct options *options;
    uint64_t began_ns;
    enum command command;
    struct sockaddr_in bound; /* BND.ADDR and BND.PORT */
    int step;
    size_t have;
    unsigned char reply[512];
};

void connection_open(struct connection *connection);
void connection_close(struct connection *connection);
void connection_fail(struct connection *connection, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void send_whole(struct connection *connection, const void *data, size_t count);

/* -- the roles -- */

/* What a client writes to the source or the sink: so many bytes more, down or up. With a seed
 * other than 0 they are those of stream.c. The sink answers each with the bytes it has had. */
struct order {
    uint64_t count;
    uint64_t seed;
};
#define MISMATCH UINT64_MAX /* the sink's answer to a byte that is not the right one */

#define CHUNK (256 * 1024)

void run_targets(void);
void run_short(const struct options *options);
void run_bulk(const struct options *options);
void run_ping(const struct options *options);
void run_idle(const struct options *options);
void run_udp(const struct options *options);

#endif
