"""What one worker is born with."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from geproxy.config.settings import Settings
from geproxy.observe.log import Log
from geproxy.process.control import Control
from geproxy.process.listeners import Lent, Place
from geproxy.process.scoreboard import Slot
from geproxy.process.shared import Shared


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is born with."""

    number: int
    settings: Settings
    lent: Lent
    datagrams: Mapping[Place, socket.socket]  # the UDP sockets that it reads
    log: Log
    control: Control
    slot: Slot
    shared: Shared


WorkerMain = Callable[[Assignment], int]  # returns the exit status
