"""What the interop tests share: nginx with something to fetch, and room for what is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.peers import Nginx, nginx
from tests.support.targets import pattern

BIG_BYTES = 64 << 20


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Serve "big", which is pattern(64 MiB)."""
    with nginx(tmp_path_factory.mktemp("nginx")) as running_site:
        with open(running_site.files / "big", "wb") as file:
            file.writelines(pattern(BIG_BYTES))
        yield running_site
