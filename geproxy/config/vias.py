"""[via.NAME]: the ways out through a peer."""

from __future__ import annotations

from dataclasses import replace

from geproxy.config.keying import note_url, read_sealing
from geproxy.config.settings import BUILT_IN_VIAS, Via
from geproxy.config.table import Entry, Reading
from geproxy.config.url import PEER_EXAMPLE, PeerUrl


def read_vias(reading: Reading, tables: object) -> tuple[Via, ...]:
    """Read all tables [via.NAME]; those that are wrong are left out."""
    entries = reading.entries(Via, "via", "a way out's", tables)
    vias = [_read_via(reading, entry) for entry in entries]
    return tuple(via for via in vias if via is not None)


def _read_via(reading: Reading, entry: Entry) -> Via | None:
    if entry.name in BUILT_IN_VIAS:
        reading.complain(entry.key, f"{entry.name} is built in; take another name")
    note_url(reading, entry, PEER_EXAMPLE)
    url: PeerUrl | None = entry.values.get("url")
    sealing = read_sealing(reading, entry, url.sealing if url is not None else None)
    if url is None or sealing is None:
        return None
    url = replace(url, sealing=sealing)
    return Via(name=entry.name, secret=sealing.secret, **(entry.values | {"url": url}))
