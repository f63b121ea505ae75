"""What a worker that an attacker has taken over cannot do to the master and its siblings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon import descriptors
from tests.support.proxy import configuration, running, ss_url

pytestmark = pytest.mark.slow


def test_a_worker_cannot_shorten_what_the_master_maps(tmp_path: Path) -> None:
    listen = {"sealed": {"url": ss_url("aes-128-gcm", ("127.0.0.1", 0))}}
    with running(tmp_path, configuration(listen)) as proxy:
        (worker, *_) = proxy.workers()
        memories = {
            number: what
            for number, what in descriptors(worker).items()
            if what.startswith("/memfd:geproxy-")
        }
        assert len(set(memories.values())) == 3, (
            "the scoreboard, and the salts of streams and of datagrams"
        )
        for number in memories:
            with pytest.raises(PermissionError):
                os.truncate(f"/proc/{worker}/fd/{number}", 0)
        assert proxy.process.poll() is None
