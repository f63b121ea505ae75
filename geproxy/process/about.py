"""What the master says of itself to whoever may look into its descriptors.

The text lives on a memfd without a name; another process of the same user, or root, finds it
through /proc/PID/fd. A counter before and after each change tells readers of a torn text.

    sequence, 8 bytes (odd while it changes) | length, 8 bytes | JSON
"""

from __future__ import annotations

import json
import mmap
import os

NAME = "geproxy-about"
SIZE_BYTES = 256 * 1024  # a thousand listeners' addresses
HEADER_BYTES = 16
READ_TRIES = 100


class About:
    """The master's side."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, SIZE_BYTES)
        self._memory = mmap.mmap(self._descriptor, SIZE_BYTES)
        self._words = memoryview(self._memory).cast("Q")
        self._facts: dict[str, object] = {}

    def tell(self, **facts: object) -> None:
        """Change some facts."""
        self._facts.update(facts)
        text = json.dumps(self._facts).encode()[: SIZE_BYTES - HEADER_BYTES]
        self._words[0] += 1
        self._words[1] = len(text)
        self._memory[HEADER_BYTES : HEADER_BYTES + len(text)] = text
        self._words[0] += 1

    def forget(self) -> None:
        """Give a child's copy back: what it could write would pass for the master's word."""
        self._words.release()
        self._memory.close()
        os.close(self._descriptor)

    def count(self, name: str) -> None:
        """Count one more of *name*."""
        before = self._facts.get(name, 0)
        assert isinstance(before, int)
        self.tell(**{name: before + 1})


def read(pid: int) -> dict[str, object]:
    """What the master *pid* says. Raises OSError (PermissionError for another user's)."""
    data = read_memfd(pid, NAME)
    for _ in range(READ_TRIES):
        sequence, length = (int.from_bytes(data[i : i + 8], "little") for i in (0, 8))
        again = read_memfd(pid, NAME)
        if sequence % 2 == 0 and again[:8] == data[:8]:
            facts: dict[str, object] = json.loads(data[HEADER_BYTES : HEADER_BYTES + length])
            return facts
        data = again
    raise OSError(0, "the master changes its facts all the time")


def read_memfd(pid: int, name: str) -> bytes:
    """The content of the memfd *name* of process *pid*. Raises OSError."""
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):
        path = f"{folder}/{entry}"
        try:
            if os.readlink(path).startswith(f"/memfd:{name}"):
                with open(path, "rb") as file:
                    return file.read()
        except FileNotFoundError:
            continue  # closed since it was listed
    raise FileNotFoundError(2, f"process {pid} is no geproxy master")
