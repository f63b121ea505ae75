"""What a rule's `to` lists, made by the master into what workers ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from geproxy.config.edges import Networks
from geproxy.config.names import Names
from geproxy.config.network import Network

# Chosen here
PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class To:
    """Targets: one of them matches if it is in *names* or *networks*, or *private* holds it."""

    names: Names
    networks: Networks
    private: bool = False  # every non-public address, this host's own included

    @classmethod
    def of(cls, members: Iterable[Network | str]) -> Self:
        """Sort the members of a list. Raises ValueError where too many patterns are alike."""
        listed = list(members)
        names = {one for one in listed if isinstance(one, str)}
        return cls(
            Names.of(names - {PRIVATE}),
            Networks.of(one for one in listed if not isinstance(one, str)),
            PRIVATE in names,
        )
