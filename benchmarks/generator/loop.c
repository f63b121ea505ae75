#include "load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 10000000ull

static int epoll = -1;
static bool stopped;

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t after_ns(double seconds) {
    return now_ns() + (uint64_t)(seconds * 1e9);
}

static void control(int operation, struct watch *watch, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll < 0 && (epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        give_up("epoll: %s", strerror(errno));
    if (epoll_ctl(epoll, operation, watch->fd, &event) < 0)
        give_up("epoll_ctl: %s", strerror(errno));
}

void watch_add(struct watch *watch, unsigned events) {
    control(EPOLL_CTL_ADD, watch, events);
}

void watch_change(struct watch *watch, unsigned events) {
    control(EPOLL_CTL_MOD, watch, events);
}

void loop_run(double patience_seconds, void (*tick)(void)) {
    struct epoll_event events[256];
    uint64_t next_tick = now_ns(), give_up_at = after_ns(patience_seconds);
    stopped = false;
    while (!stopped) {
        int timeout_ms = tick ? 10 : patience_seconds > 0 ? 100 : -1;
        int count = epoll_wait(epoll, events, 256, timeout_ms);
        if (count < 0 && errno != EINTR)
            give_up("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            struct watch *watch = events[i].data.ptr;
            watch->ready(watch, events[i].events);
        }
        uint64_t now = now_ns();
        if (count > 0)
            give_up_at = now + (uint64_t)(patience_seconds * 1e9);
        else if (patience_seconds > 0 && now > give_up_at)
            give_up("nothing moved for %.0f s", patience_seconds);
        if (tick && now >= next_tick) {
            tick();
            next_tick = now + TICK_NS;
        }
    }
}

void loop_stop(void) {
    stopped = true;
}

/* Says why as JSON: the reason holds no quotes and no backslashes, as all of them are ours. */
void give_up(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("{\"error\": \"");
    vprintf(format, arguments);
    printf("\"}\n");
    va_end(arguments);
    fflush(stdout);
    _exit(1);
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        give_up("no memory");
    return memory;
}

struct sockaddr_in loopback(int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}
