"""From the port of an association to the association: what its client sends."""

from __future__ import annotations

from geproxy.errors import GeproxyError
from geproxy.net.clientport import ClientPort
from geproxy.net.datagram import TURN
from geproxy.net.greenlets import sleep
from geproxy.relay.datagram import Association
from geproxy.seams import DatagramCodec


def carry_up(port: ClientPort, codec: DatagramCodec, association: Association) -> None:
    """Take what the client sends to *port* on its way, for ever."""
    receive, read, send = port.receive, codec.read, association.send
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
                message = read(datagram)
            except GeproxyError as error:
                association.drop(error.code)
                continue
            if message is not None:
                send(*message)
        sleep(0)
