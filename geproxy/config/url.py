"""URLs of listeners, SCHEME://[user:password@]HOST:PORT, of peers on a way out; tunnels' targets.

No error repeats a piece of the URL other than a number in the port's place: whoever forgets to
percent-encode a password moves it to where a host or a path is expected.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote

from geproxy.config import percent, ssurl
from geproxy.config.network import PORT_MAX
from geproxy.config.sealing import Sealing
from geproxy.config.userfile import check_user_name
from geproxy.hostname import read_host
from geproxy.terms import Address, Endpoint, unmapped

# Fixed by the specification
PASSWORD_MAX_BYTES = 255  # RFC 1929 §2: PLEN is one octet, 1 to 255
ANY_IPV4 = IPv4Address(0)
ANY_IPV6 = IPv6Address(0)

# Chosen here
DEFAULT_PORTS = {"mixed": 1080, "socks5": 1080, "socks4": 1080, "ss": 8388}  # tunnels have none
TUNNELS = ("tcp", "udp")
LISTEN_SCHEMES = (*DEFAULT_PORTS, *TUNNELS)  # what this version has
LISTEN_NOT_YET = ("http",)
LOGIN_SCHEMES = ("socks5", "mixed")  # in which a client can say who it is
PEER_SCHEMES = ("ss",)
PEER_NOT_YET = ("socks5", "http")
LISTEN_EXAMPLE = "socks5://127.0.0.1:1080"
PEER_EXAMPLE = "ss://METHOD:PASSWORD@relay.example.net:8388"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_AUTHORITY = re.compile(r"([^/?#]*)(.*)", re.DOTALL)
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?")


@dataclass(frozen=True, slots=True)
class ListenUrl:
    """Where a listener is bound, what it speaks there, and its one user if the URL names one."""

    scheme: str
    addresses: tuple[Address, ...]  # one socket for each; an IPv4-mapped one stands as IPv4
    port: int  # 0: the kernel chooses
    user: str | None = None
    password: bytes | None = field(default=None, repr=False)
    sealing: Sealing | None = None  # for ss

    @property
    def dual_stack(self) -> bool:
        """Whether the one socket, on [::], takes IPv4 clients too. All other IPv6 ones do not."""
        return self.addresses == (ANY_IPV6,)

    @property
    def loopback(self) -> bool:
        """Whether only this host's own processes can connect."""
        return all(address.is_loopback for address in self.addresses)

    @property
    def wildcards(self) -> tuple[Address, ...]:
        """The addresses of it that mean every address of a family; [::] alone means both."""
        return tuple(address for address in self._bound if address in (ANY_IPV4, ANY_IPV6))

    def transports(self, *, udp: bool) -> tuple[str, ...]:
        """Name what listens there, "TCP", "UDP" or both; *udp* is the listener's own setting."""
        if self.scheme == "udp":
            return ("UDP",)
        return ("TCP", "UDP") if self.scheme == "ss" and udp else ("TCP",)

    def overlaps(self, other: ListenUrl) -> bool:
        """Whether the kernel would refuse to bind both at once, for a transport they share."""
        if self.port == 0 or self.port != other.port:
            return False
        return any(
            mine == theirs or theirs in (ANY_IPV4, ANY_IPV6) or mine in (ANY_IPV4, ANY_IPV6)
            for mine in self._bound
            for theirs in other._bound
            if mine.version == theirs.version
        )

    @property
    def _bound(self) -> tuple[Address, ...]:
        return (ANY_IPV4, ANY_IPV6) if self.dual_stack else self.addresses

    def masked(self) -> str:
        """Write the URL with *** for the password: for logs and messages."""
        host = "" if len(self.addresses) > 1 else str(self.addresses[0])
        where = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        if self.sealing is not None:
            return ssurl.masked(self.sealing, where)
        user = "" if self.user is None else f"{quote(self.user, safe='')}:***@"
        return f"{self.scheme}://{user}{where}"


@dataclass(frozen=True, slots=True)
class PeerUrl:
    """Where the peer of a way out is, and how it seals."""

    scheme: str
    peer: Endpoint
    sealing: Sealing

    def masked(self) -> str:
        """Write the URL with *** for its secret: for logs and messages."""
        return ssurl.masked(self.sealing, str(self.peer))


def parse_listen_url(text: str) -> ListenUrl:
    """Read the URL of a listener.

    Raises ValueError with one line that says what would be right and holds no secret.
    """
    scheme, rest = _split_scheme(text, LISTEN_SCHEMES, LISTEN_NOT_YET, LISTEN_EXAMPLE)
    if scheme == "ss":
        sealing, host_port = ssurl.parse(rest.partition("#")[0])
        host, port = _split_port(host_port, DEFAULT_PORTS[scheme])
        return ListenUrl(scheme, _addresses(host), port, sealing=sealing)
    parts = _AUTHORITY.fullmatch(rest)
    assert parts is not None, "it matches any text"
    # Before the port is looked at: in socks5://alice:70000/7@host it is half of a password.
    if parts[2] not in ("", "/"):
        raise ValueError(f"nothing follows the port in a listener's URL; {ssurl.ENCODE}")
    userinfo, at, host_port = parts[1].rpartition("@")
    if at and scheme not in LOGIN_SCHEMES:
        raise ValueError(f"a user stands in socks5:// and mixed:// alone, not in {scheme}://")
    host, port = _split_port(host_port, DEFAULT_PORTS.get(scheme))
    user, password = _credentials(userinfo) if at else (None, None)
    return ListenUrl(scheme, _addresses(host), port, user, password)


def parse_peer_url(text: str) -> PeerUrl:
    """Read the URL of a peer. Raises ValueError as parse_listen_url does."""
    scheme, rest = _split_scheme(text, PEER_SCHEMES, PEER_NOT_YET, PEER_EXAMPLE)
    sealing, host_port = ssurl.parse(rest.partition("#")[0])
    host, port = _split_port(host_port, DEFAULT_PORTS[scheme], lowest=1)
    return PeerUrl(scheme, Endpoint(_far_host(host, "a peer"), port), sealing)


def parse_target(text: str) -> Endpoint:
    """Read HOST:PORT, the far end of a tunnel. Raises ValueError as parse_listen_url does."""
    if "://" in text:
        raise ValueError("HOST:PORT is wanted, without a scheme")
    host, port = _split_port(text, None, lowest=1)
    return Endpoint(_far_host(host, "a target"), port)


def may_hold_secret(text: str) -> bool:
    """Whether the file that *text*, right or wrong as a URL, stands in must be kept from others."""
    scheme, _, rest = text.partition("://")
    return ssurl.may_hold_secret(rest) if scheme.lower() == "ss" else "@" in text


def _split_scheme(
    text: str, known: Collection[str], not_yet: Collection[str], example: str
) -> tuple[str, str]:
    before_tag = text.partition("#")[0]  # people write spaces and emoji into the tags of ss://
    if " " in before_tag or not before_tag.isprintable():  # lone surrogates do not print either
        raise ValueError("a URL holds no space or control character: percent-encode it")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ValueError(f"is no URL; one looks like {example}")
    scheme = parts[1].lower()
    if scheme in not_yet:
        raise ValueError(f"scheme {scheme}:// is not in this version")
    if scheme not in known:
        raise ValueError(f"the scheme is unknown here; a URL looks like {example}")
    return scheme, parts[2]


def _split_port(text: str, default: int | None, lowest: int = 0) -> tuple[str, int]:
    if "[" not in text and text.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets: [::1]:1080")
    parts = _HOST_PORT.fullmatch(text)
    if parts is None:
        raise ValueError("HOST:PORT is wanted, or [IPV6]:PORT")
    if parts[2] is None:
        if default is None:
            raise ValueError("a port is wanted: HOST:PORT")
        return parts[1], default
    if not re.fullmatch("[0-9]{1,9}", parts[2]):
        raise ValueError(f"the port is a number in {lowest}..{PORT_MAX}")
    port = int(parts[2])
    if not lowest <= port <= PORT_MAX:
        raise ValueError(f"port {port} is not in {lowest}..{PORT_MAX}")
    return parts[1], port


def _addresses(host: str) -> tuple[Address, ...]:
    if not host:
        return (ANY_IPV4, ANY_IPV6)
    if host.lower() == "localhost":
        return (IPv4Address("127.0.0.1"),)
    address = _literal(host)
    if address is None:
        raise ValueError(
            "the host of a listener is an IPv4 address, an [IPv6 address] without a zone, "
            "localhost, or nothing for every address"
        )
    return (address,)


def _far_host(host: str, whose: str) -> Address | str:
    """Read the host of *whose* in the one spelling, as clients' hosts are."""
    address = _literal(host)
    if address is not None:
        return address
    if host.startswith("[") or host != host.strip():
        raise ValueError(_far_host_wanted(whose))
    try:
        return read_host(host)
    except ValueError:
        raise ValueError(_far_host_wanted(whose)) from None


def _far_host_wanted(whose: str) -> str:
    return f"the host of {whose} is a name, an IPv4 address, or an [IPv6 address] without a zone"


def _literal(host: str) -> Address | None:
    """Read IPV4 or [IPV6]. None for all else: a zone too, whose number comes and goes."""
    try:
        if not host.startswith("["):
            return IPv4Address(host)
        return None if "%" in host else unmapped(IPv6Address(host[1:-1]))
    except AddressValueError:
        return None


def _credentials(userinfo: str) -> tuple[str, bytes]:
    user_text, colon, password_text = userinfo.partition(":")
    if not colon:
        raise ValueError("a user comes with a password: user:password@HOST:PORT")
    password = percent.decode(password_text)
    try:
        user = percent.decode(user_text).decode()
    except UnicodeDecodeError:
        raise ValueError("the user is not UTF-8 once decoded") from None
    check_user_name(user)
    if not 1 <= len(password) <= PASSWORD_MAX_BYTES:
        raise ValueError(f"a password has 1 to {PASSWORD_MAX_BYTES} bytes, not {len(password)}")
    return user, password
