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
    path = own.path(END, "a")
    own.add(END, path)
    client = Endpoint.from_sockaddr(("::ffff:127.0.0.1", END.port, 0, 0))
    assert own.path(client, "b") == {"a", "b"}
    assert own.path(Endpoint(END.host, 40001), "a") == {"a"}
    with pytest.raises(DeniedError, match="leads back"):
        own.path(client, "a")
    own.discard(END)
    own.discard(END)
    assert own.path(client, "a") == {"a"}
