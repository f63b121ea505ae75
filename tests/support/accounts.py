"""Other accounts of this host, for a test that runs as root."""

from __future__ import annotations

# What sockets load at their first name, while the interpreter's files can be read: they may not
# be the other account's to see.
import encodings.idna  # noqa: F401
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="for root, who can be somebody else")


@contextmanager
def account(uid: int) -> Iterator[None]:
    """Make sockets as *uid*; they stay that account's."""
    before = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)
