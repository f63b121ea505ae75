#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A conversation with the proxy goes message by message: some peers take one recv for one
 * message, and lose what a client sends together with it. */
enum step { DIALING, GREETED, NAMED, REQUESTED, OPEN };

enum method { NO_AUTHENTICATION = 0, USERNAME_PASSWORD = 2 }; /* RFC 1928 section 3 */

#define IPV4_REPLY_BYTES 10 /* VER REP RSV ATYP, address, port (RFC 1928 section 6) */

void connection_close(struct connection *connection) {
    if (connection->watch.fd >= 0)
        close(connection->watch.fd);
    connection->watch.fd = -1;
}

void connection_fail(struct connection *connection, const char *format, ...) {
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    connection_close(connection);
    if (!connection->failed)
        give_up("%s", reason);
    connection->failed(connection, reason);
}

/* For what is small enough to find room in an empty socket buffer, always. */
void send_whole(struct connection *connection, const void *data, size_t count) {
    ssize_t sent = send(connection->watch.fd, data, count, MSG_NOSIGNAL);
    if (sent != (ssize_t)count)
        connection_fail(connection, "send: %s", sent < 0 ? strerror(errno) : "cut short");
}

static void opened(struct connection *connection) {
    connection->step = OPEN;
    connection->opened(connection);
}

/* Receives up to *need* bytes of a reply in all; true once they are there. */
static bool receive(struct connection *connection, size_t need) {
    ssize_t got = recv(connection->watch.fd, connection->reply + connection->have,
                       need - connection->have, 0);
    if (got > 0)
        connection->have += (size_t)got;
    else if (got == 0 && connection->step == REQUESTED && connection->have >= 2)
        connection_fail(connection, "REP %u, and the proxy closed", connection->reply[1]);
    else if (got == 0)
        connection_fail(connection, "the proxy closed during the handshake");
    else if (errno != EAGAIN)
        connection_fail(connection, "handshake: %s", strerror(errno));
    return got > 0 && connection->have == need;
}

static void request(struct connection *connection) {
    bool associate = connection->command == UDP_ASSOCIATE;
    struct sockaddr_in target = loopback(connection->options->target);
    unsigned char message[IPV4_REPLY_BYTES] = {5, (unsigned char)connection->command, 0, 1};
    if (!associate) { /* else all zeros: from where we shall send is not said */
        memcpy(message + 4, &target.sin_addr, 4);
        memcpy(message + 8, &target.sin_port, 2);
    }
    connection->step = REQUESTED;
    connection->have = 0;
    send_whole(connection, message, sizeof message);
}

static enum method method_of(const struct connection *connection) {
    return connection->options->user ? USERNAME_PASSWORD : NO_AUTHENTICATION;
}

static void greet(struct connection *connection) {
    const unsigned char message[] = {5, 1, (unsigned char)method_of(connection)};
    connection->step = GREETED;
    send_whole(connection, message, sizeof message);
}

/* VER ULEN UNAME PLEN PASSWD (RFC 1929 section 2); nothing is longer than its octet can say. */
static void name_user(struct connection *connection) {
    const struct options *options = connection->options;
    char message[2 + 255 + 1 + 255 + 1];
    int size = snprintf(message, sizeof message, "\1%c%s%c%s", (int)strlen(options->user),
                        options->user, (int)strlen(options->password), options->password);
    connection->step = NAMED;
    connection->have = 0;
    send_whole(connection, message, (size_t)size);
}

static void take_method(struct connection *connection) {
    if (!receive(connection, 2))
        return;
    if (connection->reply[0] != 5 || connection->reply[1] != method_of(connection))
        connection_fail(connection, "METHOD %u was chosen", connection->reply[1]);
    else if (connection->options->user)
        name_user(connection);
    else
        request(connection);
}

static void take_status(struct connection *connection) {
    if (!receive(connection, 2))
        return;
    if (connection->reply[0] != 1 || connection->reply[1] != 0)
        connection_fail(connection, "the password was answered with STATUS %u",
                        connection->reply[1]);
    else
        request(connection);
}

static const char *asked(const struct connection *connection) {
    return connection->command == CONNECT ? "CONNECT" : "UDP ASSOCIATE";
}

static void take_reply(struct connection *connection) {
    const unsigned char *reply = connection->reply;
    /* No address is shorter than four bytes: names of one or two are announced by nobody. */
    size_t need = IPV4_REPLY_BYTES;
    if (connection->have >= need && reply[3] != 1)
        need = reply[3] == 4 ? 22 : 7 + (size_t)reply[4];
    if (connection->have < need && !receive(connection, need))
        return;
    if (reply[0] != 5 || reply[1] != 0) {
        connection_fail(connection, "%s was answered with REP %u", asked(connection), reply[1]);
    } else if (reply[3] == 1) {
        connection->bound.sin_family = AF_INET;
        memcpy(&connection->bound.sin_addr, reply + 4, 4);
        memcpy(&connection->bound.sin_port, reply + 8, 2);
        opened(connection);
    } else if (need == IPV4_REPLY_BYTES && connection->have < 7 + (size_t)reply[4]) {
        take_reply(connection); /* a longer address: now its length is known */
    } else {
        opened(connection);
    }
}

static void request_http(struct connection *connection) {
    char message[128];
    int port = connection->options->target;
    int count = snprintf(message, sizeof message,
                         "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port, port);
    connection->step = REQUESTED;
    send_whole(connection, message, (size_t)count);
}

/* Looks before it takes: behind the head there may be the target's first bytes. */
static void take_head(struct connection *connection) {
    char head[sizeof connection->reply + 1];
    ssize_t seen = recv(connection->watch.fd, head, sizeof head - 1, MSG_PEEK);
    if (seen <= 0) {
        if (seen == 0 || errno != EAGAIN)
            connection_fail(connection, "the proxy closed during the handshake");
        return;
    }
    head[seen] = '\0';
    char *end = strstr(head, "\r\n\r\n");
    if (!end && (size_t)seen == sizeof head - 1)
        connection_fail(connection, "a head of more than %zd bytes", seen);
    if (!end)
        return;
    int status = 0;
    recv(connection->watch.fd, connection->reply, (size_t)(end - head) + 4, 0);
    if (sscanf(head, "HTTP/1.%*d %d", &status) != 1 || status != 200)
        connection_fail(connection, "CONNECT was answered with status %d", status);
    else
        opened(connection);
}

static void begin(struct connection *connection) {
    if (connection->options->dialect == DIRECT) {
        opened(connection);
    } else if (connection->options->dialect == HTTP) {
        request_http(connection);
    } else {
        greet(connection);
    }
}

static void dialed(struct connection *connection) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->watch.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        connection_fail(connection, "connect: %s", strerror(error));
        return;
    }
    watch_change(&connection->watch, EPOLLIN);
    begin(connection);
}

static void ready(struct watch *watch, unsigned events) {
    struct connection *connection = (struct connection *)watch;
    if (watch->fd < 0)
        return;
    if (connection->step == OPEN)
        connection->readable(connection, events);
    else if (connection->step == DIALING)
        dialed(connection);
    else if (connection->options->dialect == HTTP)
        take_head(connection);
    else if (connection->step == GREETED)
        take_method(connection);
    else if (connection->step == NAMED)
        take_status(connection);
    else
        take_reply(connection);
}

void connection_open(struct connection *connection) {
    const struct options *options = connection->options;
    struct sockaddr_in address =
        loopback(options->dialect == DIRECT ? options->target : options->proxy);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connection->watch = (struct watch){.fd = fd, .ready = ready};
    connection->step = DIALING;
    connection->have = 0;
    connection->began_ns = now_ns();
    if (!connection->command)
        connection->command = CONNECT;
    if (fd < 0)
        give_up("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int failed = connect(fd, (struct sockaddr *)&address, sizeof address);
    if (failed && errno == EINPROGRESS) /* on loopback it stands by now, as a rule */
        failed = connect(fd, (struct sockaddr *)&address, sizeof address);
    if (!failed) {
        watch_add(&connection->watch, EPOLLIN);
        begin(connection);
    } else if (errno == EALREADY) {
        watch_add(&connection->watch, EPOLLOUT);
    } else {
        connection_fail(connection, "connect: %s", strerror(errno));
    }
}
