"""The spine: one client connection, from its first byte to its last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address
from typing import Protocol

from geproxy.ending import fault, part, report
from geproxy.errors import (
    DeniedError,
    DialError,
    EvictedError,
    GeproxyError,
    ProtocolError,
    ResetError,
)
from geproxy.hostname import canonical
from geproxy.net.announce import Announcer
from geproxy.net.clientport import ClientPort
from geproxy.net.deadline import Deadline
from geproxy.net.forward import Flow
from geproxy.net.greenlets import Crew, getcurrent, interrupter, sleep
from geproxy.net.messages import peek, read_to_end
from geproxy.net.owners import SocketOwners
from geproxy.net.ownways import OwnWays
from geproxy.net.places import Places
from geproxy.observe.log import Log
from geproxy.observe.record import Record
from geproxy.relay.associations import Associations
from geproxy.relay.datagram import Association, Ended, Reply
from geproxy.relay.stream import Relays
from geproxy.relay.upward import carry_up
from geproxy.seams import Listener, Outbound, Policy, Request, Route, Subject, Waiting
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome

UNSPECIFIED = IPv4Address(0)
DIRECT = "direct"  # the way out without a peer
WATCH_SECONDS = 0.5  # of a BIND whose client spoke early: its port closes within a second


class Site(Protocol):
    """What one worker serves with."""

    @property
    def handshake_seconds(self) -> float: ...
    @property
    def bind_seconds(self) -> float: ...
    @property
    def udp_rebind_seconds(self) -> float: ...
    @property
    def owners(self) -> SocketOwners: ...
    @property
    def places(self) -> Places: ...
    @property
    def own_connections(self) -> OwnWays: ...
    @property
    def announcer(self) -> Announcer: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def relays(self) -> Relays: ...
    @property
    def associations(self) -> Associations: ...
    @property
    def outbounds(self) -> Mapping[str, Outbound]: ...
    @property
    def log(self) -> Log: ...


def serve(client: Stream, listener: Listener, site: Site) -> None:
    """Carry one client connection from its first byte to its last.

    Closes *client*, or leaves it to the site's silence.
    """
    record = Record(listener.name, client.peer)
    held = False
    try:
        with Deadline(site.handshake_seconds, "the handshake"):
            request = listener.inbound.negotiate(client)
        site.places.prove(client)
        record.asked(request)
        # Here for every inbound: nothing behind this line sees a host in another spelling.
        request.target = record.target = one_spelling(request)
        subject = Subject(listener, client.peer.address, request.user, request.command)
        match request.command:
            case Command.CONNECT:
                connect(request, subject, record, site)
            case Command.BIND:
                bind(request, subject, record, site)
            case Command.UDP_ASSOCIATE:
                associate(request, subject, record, site)
    except EvictedError:
        client.abort()  # Places tells of it, in one line for many
    except GeproxyError as error:
        if error.in_silence:
            report(record, error, site.log)
            site.places.hold(client, record.started + site.handshake_seconds)
            held = True
        else:
            part(client, record, error, site.log)
    except Exception as bug:
        part(client, record, fault(bug, site.log), site.log)
    else:
        report(record, None, site.log)
    finally:
        if not held:
            client.close()


def one_spelling(request: Request) -> Endpoint:
    """Give the target in the one spelling of its host (hostname.canonical).

    Raises DeniedError for what is no host. What UDP ASSOCIATE announces is a hint, and never a
    reason to refuse (RFC 1928 §6): such a hint says nothing.
    """
    try:
        return canonical(request.target)
    except DeniedError:
        if request.command is not Command.UDP_ASSOCIATE:
            raise
        return Endpoint(UNSPECIFIED, 0)


def connect(request: Request, subject: Subject, record: Record, site: Site) -> None:
    """Open the way to the target, say so, and relay until both sides are done."""
    route = site.policy.decide(subject, request.target)
    record.via = route.outbound.name
    # Where its client chooses each target, our own ports are refused: no loop runs by itself.
    if route.outbound.name == DIRECT and subject.listener.target is None:
        target = dial(route, subject, record)
        relay(request, target, target.bound, record, site)
        return
    listeners = site.own_connections.led_to(request.stream, subject.listener.name)
    target = dial(route, subject, record)
    note = site.own_connections.add(target, listeners)
    try:
        relay(request, target, target.bound, record, site)
    finally:
        site.own_connections.discard(note)


def dial(route: Route, subject: Subject, record: Record) -> Stream:
    """Connect by the way that was chosen."""
    dial_started = time.monotonic()
    target = route.outbound.connect(route.target, route.permit, subject.client)
    record.connected(target, dial_started)
    return target


def relay(request: Request, target: Stream, bound: Endpoint, record: Record, site: Site) -> None:
    """Grant the request with *bound*, and move bytes. Closes *target*."""
    up, down = Flow(), Flow()
    try:
        request.grant(bound)
        site.relays.run(request.stream, target, up, down)
    except BaseException:
        target.abort()  # or a cut would look like an end
        raise
    else:
        target.close()
    finally:
        record.up_bytes, record.down_bytes = up.bytes, down.bytes


def bind(request: Request, subject: Subject, record: Record, site: Site) -> None:
    """Listen for the expected peer, say where, say who has come, and relay (RFC 1928 §4)."""
    route = site.policy.decide(subject, request.target)
    record.via = route.outbound.name
    offer = subject.listener.offer
    text = f"nobody came within {site.bind_seconds:g} seconds"
    late = DialError(text, "timeout", Outcome.TIMED_OUT)
    with closing(route.outbound.bind(request, route.permit, offer)) as waiting:
        told = site.announcer.address_for(waiting.bound.address, offer, subject.client)
        request.grant(Endpoint(told, waiting.bound.port))
        wait_started = time.monotonic()
        with Deadline(site.bind_seconds, "BIND", late):
            peer = await_peer(waiting, request.stream)
    record.connected(peer, wait_started)
    relay(request, peer, peer.peer, record, site)


def await_peer(waiting: Waiting, control: Stream) -> Stream:
    """Wait for the peer, as long as the client does. Raises ResetError when that has left."""
    crew = Crew(interrupter(getcurrent()))
    crew.spawn(partial(watch, control))
    try:
        peer = waiting.accept()
    except BaseException:
        crew.end()
        raise
    try:
        crew.end()
    except BaseException:
        peer.abort()
        raise
    return peer


def watch(control: Stream) -> None:
    """Raise ResetError when the client leaves; bytes that it sends early stay for the relay."""
    try:
        peek(control)
        while not control.left:  # its end stands behind bytes that are not ours to read
            sleep(WATCH_SECONDS)
    except ProtocolError as error:
        raise ResetError("the client has left") from error
    raise ResetError("the client has left")


def associate(request: Request, subject: Subject, record: Record, site: Site) -> None:
    """Relay the client's datagrams for as long as its connection stands (RFC 1928 §7)."""
    site.policy.admit(subject)
    control, offer, codec = request.stream, subject.listener.offer, request.codec
    address = control.bound.address
    identity = site.owners.identify(control.peer, control.bound)
    told = site.announcer.address_for(address, offer, subject.client)
    with (
        site.places.association(identity.share),
        closing(
            ClientPort(
                address,
                offer.ports,
                identity,
                request.target,
                lambda: request.codec,
                site.udp_rebind_seconds,
            )
        ) as port,
    ):
        record.address = port.bound

        def reply(head: bytes, data: bytes) -> None:
            port.send(codec.write(head, data), len(data))

        association = open_association(subject, reply, interrupter(getcurrent()), site)
        port.on_loss(association.lose_down)
        try:
            association.crew.spawn(partial(carry_up, port, association))
            request.grant(Endpoint(told, port.bound.port))
            read_to_end(control)
        finally:
            try:
                site.associations.end(association)
            finally:
                port.flush()
                record.relayed(association)


def open_association(subject: Subject, reply: Reply, ended: Ended, site: Site) -> Association:
    """Make an association whose every target is judged as *subject*'s."""
    decide = partial(site.policy.decide, subject)
    filtering, budget = subject.listener.filtering, site.associations.budget
    association = Association(subject.client, decide, reply, filtering, ended, budget)
    site.associations.add(association)
    return association
