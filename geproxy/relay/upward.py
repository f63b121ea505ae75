"""From the port of an association to the association: what its client sends."""

from __future__ import annotations

from geproxy.errors import GeproxyError
from geproxy.net.clientport import ClientPort
from geproxy.net.datagram import TURN
from geproxy.net.greenlets import sleep
from geproxy.relay.datagram import Association


def carry_up(port: ClientPort, association: Association) -> None:
    """Take what the client sends to *port* on its way, for ever."""
    receive, send = port.receive, association.send
    while True:
        turn = TURN
        while turn or port.in_burst:
            if not port.in_burst:
                turn -= 1
            try:
                datagram = receive()
                if datagram is None:
                    port.wait_readable()
                    continue
                message = port.codec.read(datagram)  # not the same for ever: see ClientPort
            except GeproxyError as error:
                association.drop(error.code)
                continue
            if message is not None:
                send(*message)
        sleep(0)
