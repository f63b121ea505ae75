"""Buffers of two sizes: each is lent to one at a time, and large ones are few."""

import pytest

from geproxy.net.buffers import (
    BUFFER_BYTES,
    LARGE_BUFFER_BYTES,
    LARGE_BUFFERS,
    PLAIN_ROOM_BYTES,
    POOL_BUFFERS,
    BufferPool,
)
from geproxy.wire.shadowsocks import FIRST_SEND_EXTRA_BYTES, sealed_size


def test_a_pool_lends_what_it_got_back_and_keeps_only_so_much() -> None:
    pool = BufferPool()
    lent = [pool.take() for _ in range(POOL_BUFFERS + 10)]
    assert len({id(buffer.obj) for buffer in lent}) == len(lent)
    assert {len(buffer) for buffer in lent} == {BUFFER_BYTES}
    for buffer in lent:
        pool.give(buffer)
    again = [pool.take() for _ in range(POOL_BUFFERS + 10)]
    known = {id(buffer.obj) for buffer in lent}
    assert sum(id(buffer.obj) in known for buffer in again) == POOL_BUFFERS


@pytest.mark.parametrize("wanted_bytes", [BUFFER_BYTES + 1, LARGE_BUFFER_BYTES, 1 << 30])
def test_who_wants_more_gets_a_large_one_while_there_is_one(wanted_bytes: int) -> None:
    pool = BufferPool()
    for _ in range(2):
        lent = [pool.take(wanted_bytes) for _ in range(LARGE_BUFFERS + 2)]
        assert len({id(buffer.obj) for buffer in lent}) == len(lent)
        sizes = [len(buffer) for buffer in lent]
        assert sizes == [LARGE_BUFFER_BYTES] * LARGE_BUFFERS + [BUFFER_BYTES] * 2
        for buffer in lent:
            pool.give(buffer)


@pytest.mark.parametrize("wanted_bytes", [0, 1, BUFFER_BYTES])
def test_large_ones_are_for_those_alone_who_want_more(wanted_bytes: int) -> None:
    pool = BufferPool()
    pool.give(pool.take(LARGE_BUFFER_BYTES))
    assert len(pool.take(wanted_bytes)) == BUFFER_BYTES


@pytest.mark.parametrize("wanted_bytes", [BUFFER_BYTES, LARGE_BUFFER_BYTES])
def test_what_fits_a_buffer_fits_it_sealed_with_all_that_a_stream_begins_with(
    wanted_bytes: int,
) -> None:
    buffer = BufferPool().take(wanted_bytes)
    room_bytes = PLAIN_ROOM_BYTES[len(buffer)]
    assert sealed_size(room_bytes) + FIRST_SEND_EXTRA_BYTES <= len(buffer)
    assert room_bytes > 0.99 * len(buffer), "much of it is never used"
