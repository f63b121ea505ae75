"""A memory of keys that all workers share, and that survives any of them.

Keys are spread over buckets. Each bucket is a ring: a new key takes the place of the oldest there.
With RING keys in each, all together remember about as many as one long ring would, and a claim
locks and reads one kilobyte, and writes 24 bytes.

    bucket = position, 8 bytes (how many keys it ever took) | padding | RING digests of 16 bytes
"""

from __future__ import annotations

import fcntl
import mmap
import os
from hashlib import blake2b

# Chosen here
DIGEST_BYTES = 16  # two keys that meet by chance: never, at 2^20 keys among 2^128
RING = 64  # digests in a bucket
HEADER_BYTES = DIGEST_BYTES
BUCKET_BYTES = HEADER_BYTES + RING * DIGEST_BYTES
LOCK_TRIES = 1000  # each after a yield; whoever holds the lock holds it for microseconds
# Memory that everybody maps and anybody may shorten is a way to kill: to touch a page that is gone
# raises SIGBUS, in the master too.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def make_memory(name: str, size_bytes: int) -> tuple[int, mmap.mmap]:
    """Make zeroed memory that children inherit, of a size that nobody can change.

    Returns the descriptor of its file, which /proc shows as *name*, and the map. Raises OSError.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        return descriptor, mmap.mmap(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise


class SharedMemory:
    """A Store on a memfd, made by the master before it forks.

    Byte-range locks of POSIX guard the buckets: the kernel frees them when a worker is killed.
    They belong to the process, so a worker has to claim without a switch to another greenlet, and
    must never close a descriptor of this file, which would drop all its locks.
    """

    def __init__(self, name: str, keys: int) -> None:
        """Remember about the last *keys* keys; *name* is what /proc shows of the file."""
        self._buckets = max(keys // RING, 1)
        self._descriptor, self._memory = make_memory(name, self._buckets * BUCKET_BYTES)
        # Keyed, so that nobody can choose keys that all fall into one bucket; and copied for each
        # use, which is cheaper than to begin with the key again.
        self._keyed = blake2b(key=os.urandom(32), digest_size=DIGEST_BYTES)

    def remember_once(self, key: bytes) -> bool:
        """True for the first to say *key*; False after that, for as long as it is remembered.

        False as well when the bucket stays locked: a process was stopped in the middle of a claim,
        and to refuse one client is better than to serve a replay.
        """
        keyed = self._keyed.copy()
        keyed.update(key)
        digest = keyed.digest()
        bucket = int.from_bytes(digest[:8], "little") % self._buckets
        start = bucket * BUCKET_BYTES
        if not self._lock(start):
            return False
        try:
            return self._claim(start, digest)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, start)

    def close(self) -> None:
        """Give the memory back in this process; only the master does, and it never claims."""
        self._memory.close()
        os.close(self._descriptor)

    def _lock(self, start: int) -> bool:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
                return True
            except (BlockingIOError, PermissionError):  # lockf(3) allows either
                os.sched_yield()
        return False

    def _claim(self, start: int, digest: bytes) -> bool:
        memory, first = self._memory, start + HEADER_BYTES
        ring = memory[first : start + BUCKET_BYTES]  # a copy: bytes search faster than maps do
        found = ring.find(digest)
        while found >= 0:
            if found % DIGEST_BYTES == 0:
                return False
            found = ring.find(digest, found + 1)
        position = int.from_bytes(memory[start : start + 8], "little")
        # The position first: killed between the two, an old key stays one turn longer, and the new
        # one, whose session has died with us, is not remembered.
        memory[start : start + 8] = (position + 1).to_bytes(8, "little")
        place = first + position % RING * DIGEST_BYTES
        memory[place : place + DIGEST_BYTES] = digest
        return True
