#include "load.h"

#include <stdlib.h>

static uint64_t *durations;
static size_t count, room;

void note_ns(uint64_t nanoseconds) {
    if (count == room) {
        room = room ? room * 2 : 65536;
        durations = realloc(durations, room * sizeof *durations);
        if (!durations)
            give_up("no memory");
    }
    durations[count++] = nanoseconds;
}

size_t noted(void) {
    return count;
}

static int by_length(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

double percentile_ms(double percent) {
    if (!count)
        return 0;
    qsort(durations, count, sizeof *durations, by_length);
    size_t index = (size_t)((double)count * percent / 100);
    return (double)durations[index < count ? index : count - 1] / 1e6;
}
