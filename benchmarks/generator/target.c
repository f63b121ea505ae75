#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATAGRAMS 64
#define DATAGRAM_BYTES 2048

/* One accepted connection: of the echo, the source or the sink. */
struct client {
    struct watch watch;
    unsigned watched;
    struct order order;
    size_t have;            /* bytes of the order that have come */
    uint64_t left, moved;   /* bytes still ordered; bytes moved in all */
    bool right;
    size_t from, until;     /* echo: what could not be sent back yet */
    unsigned char *unsent;
};

struct service {
    struct watch watch;
    void (*ready)(struct watch *watch, unsigned events);
};

static unsigned char buffer[CHUNK];

static void leave(struct client *client) {
    close(client->watch.fd);
    free(client->unsent);
    free(client);
}

static void want(struct client *client, unsigned events) {
    if (client->watched != events)
        watch_change(&client->watch, events);
    client->watched = events;
}

static bool again(ssize_t count) {
    return count < 0 && (errno == EAGAIN || errno == EINTR);
}

static void echo(struct watch *watch, unsigned events) {
    struct client *client = (struct client *)watch;
    unsigned char *data = buffer;
    ssize_t count = 0, sent;
    (void)events;
    if (client->unsent) {
        data = client->unsent + client->from;
        count = (ssize_t)(client->until - client->from);
    } else if ((count = recv(watch->fd, buffer, sizeof buffer, 0)) <= 0) {
        if (!again(count))
            leave(client);
        return;
    }
    sent = send(watch->fd, data, (size_t)count, MSG_NOSIGNAL);
    if (sent < 0 && !again(sent)) {
        leave(client);
    } else if (sent == count) {
        free(client->unsent);
        client->unsent = NULL;
        want(client, EPOLLIN);
    } else if (client->unsent) {
        client->from += sent > 0 ? (size_t)sent : 0;
    } else {
        client->unsent = allocate(1, (size_t)count);
        client->from = sent > 0 ? (size_t)sent : 0;
        client->until = (size_t)count;
        memcpy(client->unsent, buffer, (size_t)count);
        want(client, EPOLLOUT);
    }
}

/* Reads more of an order; true once it is whole. Leaves at the end of the connection. */
static bool take_order(struct client *client) {
    ssize_t count = recv(client->watch.fd, (char *)&client->order + client->have,
                         sizeof client->order - client->have, 0);
    if (count > 0) {
        client->have += (size_t)count;
        if (client->have < sizeof client->order)
            return false;
        client->have = 0;
        client->left += client->order.count;
        return true;
    }
    if (!again(count))
        leave(client);
    return false;
}

static void source(struct watch *watch, unsigned events) {
    struct client *client = (struct client *)watch;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (take_order(client))
            want(client, EPOLLIN | EPOLLOUT);
        return; /* who has left is not to be touched, and who has not is ready again at once */
    }
    size_t part = client->left < CHUNK ? (size_t)client->left : CHUNK;
    if (client->order.seed)
        stream_fill(client->order.seed, client->moved, buffer, part);
    ssize_t sent = send(watch->fd, buffer, part, MSG_NOSIGNAL);
    if (sent < 0 && !again(sent)) {
        leave(client);
        return;
    }
    client->left -= sent > 0 ? (uint64_t)sent : 0;
    client->moved += sent > 0 ? (uint64_t)sent : 0;
    if (!client->left)
        want(client, EPOLLIN);
}

static void sink(struct watch *watch, unsigned events) {
    struct client *client = (struct client *)watch;
    (void)events;
    if (!client->left) {
        take_order(client);
        return;
    }
    size_t part = client->left < CHUNK ? (size_t)client->left : CHUNK;
    /* MSG_TRUNC: count the bytes and let the kernel drop them (tcp(7)). */
    ssize_t got = recv(watch->fd, buffer, part, client->order.seed ? 0 : MSG_TRUNC);
    if (got <= 0) {
        if (!again(got))
            leave(client);
        return;
    }
    if (client->order.seed)
        client->right &= stream_equals(client->order.seed, client->moved, buffer, (size_t)got);
    client->left -= (uint64_t)got;
    client->moved += (uint64_t)got;
    if (!client->left) {
        uint64_t answer = client->right ? client->moved : MISMATCH;
        if (send(watch->fd, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer)
            leave(client);
    }
}

static void accepted(struct watch *watch, unsigned events) {
    struct service *service = (struct service *)watch;
    int fd;
    (void)events;
    while ((fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *client = allocate(1, sizeof *client);
        client->watch = (struct watch){.fd = fd, .ready = service->ready};
        client->watched = EPOLLIN;
        client->right = true;
        watch_add(&client->watch, EPOLLIN);
    }
    if (errno == EMFILE || errno == ENFILE)
        give_up("the target has no more descriptors");
}

static void echo_datagrams(struct watch *watch, unsigned events) {
    static unsigned char data[DATAGRAMS][DATAGRAM_BYTES];
    static struct sockaddr_in senders[DATAGRAMS];
    struct iovec parts[DATAGRAMS];
    struct mmsghdr messages[DATAGRAMS];
    (void)events;
    for (int i = 0; i < DATAGRAMS; i++) {
        parts[i] = (struct iovec){data[i], DATAGRAM_BYTES};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &senders[i],
                                              .msg_namelen = sizeof senders[i],
                                              .msg_iov = &parts[i],
                                              .msg_iovlen = 1};
    }
    int count = recvmmsg(watch->fd, messages, DATAGRAMS, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++)
        parts[i].iov_len = messages[i].msg_len;
    if (count > 0)
        sendmmsg(watch->fd, messages, (unsigned)count, 0);
}

static int serve(struct service *service, int kind) {
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int room = 4 << 20, on = 1;
    if (kind == SOCK_STREAM) /* those that are accepted inherit it */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
        (kind == SOCK_STREAM && listen(fd, 4096) < 0))
        give_up("target: %s", strerror(errno));
    if (kind == SOCK_DGRAM)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    getsockname(fd, (struct sockaddr *)&address, &size);
    service->watch.fd = fd;
    watch_add(&service->watch, EPOLLIN);
    return ntohs(address.sin_port);
}

/* The owner holds our standard input open, and goes away when it does. */
static void owner_left(struct watch *watch, unsigned events) {
    (void)watch, (void)events;
    loop_stop();
}

void run_targets(void) {
    static struct service services[] = {
        {.watch.ready = accepted, .ready = echo},
        {.watch.ready = accepted, .ready = source},
        {.watch.ready = accepted, .ready = sink},
        {.watch.ready = echo_datagrams},
    };
    static struct watch owner = {.fd = STDIN_FILENO, .ready = owner_left};
    int ports[4];
    for (int i = 0; i < 4; i++)
        ports[i] = serve(&services[i], i < 3 ? SOCK_STREAM : SOCK_DGRAM);
    watch_add(&owner, EPOLLIN);
    printf("{\"echo\": %d, \"source\": %d, \"sink\": %d, \"datagrams\": %d}\n", ports[0], ports[1],
           ports[2], ports[3]);
    fflush(stdout);
    loop_run(0, NULL);
}
