"""Percent-encoding as URLs have it (RFC 3986 §2.1)."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def decode(text: str) -> bytes:
    """Undo the encoding. Raises ValueError, which does not repeat *text*, for a % by itself."""
    if _BARE_PERCENT.search(text):
        raise ValueError("a % in a user, password or key is written %25")
    return unquote_to_bytes(text)
