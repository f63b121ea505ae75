"""From the port of an association to the association: what its client sends."""

from __future__ import annotations

from time import monotonic

from geproxy.errors import GeproxyError
from geproxy.net.clientport import ClientPort
from geproxy.net.timeslice import begin, give_way
from geproxy.relay.datagram import Association


def carry_up(port: ClientPort, association: Association) -> None:
    """Take what the client sends to *port* on its way, for ever."""
    receive, send = port.receive, association.send
    slice_ends = begin()
    while True:
        if monotonic() >= slice_ends:
            slice_ends = give_way()
        try:
            datagram = receive()
            if datagram is None:
                port.wait_readable()
                slice_ends = begin()
                continue
            message = port.codec.read(datagram)  # not the same for ever: see ClientPort
        except GeproxyError as error:
            association.drop(error.code)
            continue
        if message is not None:
            send(*message)
