"""Which clients are sockets of our own."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from geproxy.errors import DeniedError
from geproxy.net.ownways import OwnWays
from geproxy.terms import Endpoint

END = Endpoint(ip_address("127.0.0.1"), 40000)


def test_a_client_that_came_by_this_listener_before_is_refused_while_it_is_open():
    own = OwnWays()
    elsewhere = Endpoint(END.host, 40001)
    own.refuse_loop(elsewhere, "a")
    own.add(END, elsewhere, "a")
    client = Endpoint.from_sockaddr(("::ffff:127.0.0.1", END.port, 0, 0))
    own.refuse_loop(client, "b")
    own.refuse_loop(elsewhere, "a")
    with pytest.raises(DeniedError, match="leads back"):
        own.refuse_loop(client, "a")
    own.discard(END)
    own.discard(END)
    own.refuse_loop(client, "a")


def test_a_way_over_several_listeners_is_known_at_each_of_them():
    own = OwnWays()
    further = Endpoint(END.host, 40001)
    own.add(END, Endpoint(END.host, 40002), "a")
    own.add(further, END, "b")
    for listener in ("a", "b"):
        with pytest.raises(DeniedError, match="leads back"):
            own.refuse_loop(further, listener)
