"""Listener URLs: SCHEME://[user:password@]HOST:PORT.

No error repeats a piece of the URL other than a number in the port's place: whoever forgets to
percent-encode a password moves it to where a host or a path is expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote, unquote_to_bytes

from geproxy.config.userfile import check_user_name
from geproxy.terms import Address, plain_address

# Fixed by the specification
PORT_MAX = 65535
PASSWORD_MAX_BYTES = 255  # RFC 1929 §2: PLEN is one octet, 1 to 255
ANY_IPV4 = IPv4Address(0)
ANY_IPV6 = IPv6Address(0)

# Chosen here
DEFAULT_PORTS = {"socks5": 1080}  # the schemes that this version has
NOT_YET = frozenset({"mixed", "socks4", "http", "ss", "tcp", "udp"})
EXAMPLE = "socks5://127.0.0.1:1080"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)")
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class ListenUrl:
    """Where a listener is bound, what it speaks there, and its one user if the URL names one."""

    scheme: str
    addresses: tuple[Address, ...]  # one socket for each; an IPv4-mapped one stands as IPv4
    port: int  # 0: the kernel chooses
    user: str | None = None
    password: bytes | None = field(default=None, repr=False)

    @property
    def dual_stack(self) -> bool:
        """Whether the one socket, on [::], takes IPv4 clients too. All other IPv6 ones do not."""
        return self.addresses == (ANY_IPV6,)

    @property
    def loopback(self) -> bool:
        """Whether only this host's own processes can connect."""
        return all(address.is_loopback for address in self.addresses)

    def overlaps(self, other: ListenUrl) -> bool:
        """Whether the kernel would refuse to bind both at once."""
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
        user = "" if self.user is None else f"{quote(self.user, safe='')}:***@"
        host = "" if len(self.addresses) > 1 else str(self.addresses[0])
        if ":" in host:
            host = f"[{host}]"
        return f"{self.scheme}://{user}{host}:{self.port}"


def parse_listen_url(text: str) -> ListenUrl:
    """Read the URL of a listener.

    Raises ValueError with one line that says what would be right and holds no secret.
    """
    if " " in text or not text.isprintable():  # lone surrogates do not print either
        raise ValueError("a URL holds no space or control character: percent-encode it")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ValueError(f"is no URL; one looks like {EXAMPLE}")
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    if scheme in NOT_YET:
        raise ValueError(f"scheme {scheme}:// is not in this version")
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"the scheme is unknown; a listener's URL looks like {EXAMPLE}")
    # Before the port is looked at: in socks5://alice:70000/7@host it is half of a password.
    if rest not in ("", "/"):
        raise ValueError(
            "nothing follows the port in a listener's URL; "
            "/ ? # in a password are written %2F %3F %23"
        )
    userinfo, at, host_port = authority.rpartition("@")
    host, port = _split_port(host_port, DEFAULT_PORTS[scheme])
    user, password = _credentials(userinfo) if at else (None, None)
    return ListenUrl(scheme, _addresses(host), port, user, password)


def _split_port(text: str, default: int) -> tuple[str, int]:
    if "[" not in text and text.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets: [::1]:1080")
    parts = _HOST_PORT.fullmatch(text)
    if parts is None:
        raise ValueError("HOST:PORT is wanted, or [IPV6]:PORT")
    if parts[2] is None:
        return parts[1], default
    if not re.fullmatch("[0-9]{1,9}", parts[2]):
        raise ValueError(f"the port is a number in 0..{PORT_MAX}")
    port = int(parts[2])
    if port > PORT_MAX:
        raise ValueError(f"port {port} is not in 0..{PORT_MAX}")
    return parts[1], port


def _addresses(host: str) -> tuple[Address, ...]:
    if not host:
        return (ANY_IPV4, ANY_IPV6)
    if host.lower() == "localhost":
        return (IPv4Address("127.0.0.1"),)
    try:
        if not host.startswith("["):
            return (IPv4Address(host),)
        if "%" not in host:  # a zone: bind() would need its number, and interfaces come and go
            IPv6Address(host[1:-1])
            return (plain_address(host[1:-1]),)
    except AddressValueError:
        pass  # its text repeats the host
    raise ValueError(
        "the host of a listener is an IPv4 address, an [IPv6 address] without a zone, "
        "localhost, or nothing for every address"
    )


def _credentials(userinfo: str) -> tuple[str, bytes]:
    user_text, colon, password_text = userinfo.partition(":")
    if not colon:
        raise ValueError("a user comes with a password: user:password@HOST:PORT")
    if _BARE_PERCENT.search(userinfo):
        raise ValueError("a % in a user or password is written %25")
    try:
        user = unquote_to_bytes(user_text).decode()
    except UnicodeDecodeError:
        raise ValueError("the user is not UTF-8 once decoded") from None
    check_user_name(user)
    password = unquote_to_bytes(password_text)
    if not 1 <= len(password) <= PASSWORD_MAX_BYTES:
        raise ValueError(f"a password has 1 to {PASSWORD_MAX_BYTES} bytes, not {len(password)}")
    return user, password
