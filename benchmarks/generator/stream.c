#include "load.h"

#include <string.h>

/* The 64-bit word number *index*: splitmix64, which needs no word before it. */
static inline uint64_t word(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

void stream_fill(uint64_t seed, uint64_t offset, unsigned char *data, size_t count) {
    size_t done = 0;
    while (done < count) {
        uint64_t value = word(seed, (offset + done) / 8);
        size_t skip = (size_t)((offset + done) % 8), part = 8 - skip;
        if (part > count - done)
            part = count - done;
        memcpy(data + done, (unsigned char *)&value + skip, part);
        done += part;
    }
}

bool stream_equals(uint64_t seed, uint64_t offset, const unsigned char *data, size_t count) {
    unsigned char expected[4096];
    for (size_t done = 0; done < count;) {
        size_t part = count - done < sizeof expected ? count - done : sizeof expected;
        stream_fill(seed, offset + done, expected, part);
        if (memcmp(data + done, expected, part) != 0)
            return false;
        done += part;
    }
    return true;
}
