"""What stands behind ss:// in its three forms, and the one that we write.

- ``METHOD:PASSWORD@HOST:PORT``, percent-encoded; ``METHOD@HOST:PORT`` with ``?key=BASE64URL``, or
  with its secret in a file;
- ``BASE64URL(METHOD:PASSWORD)@HOST:PORT`` (SIP002);
- ``BASE64(METHOD:PASSWORD@HOST:PORT)``, which came before SIP002.

No error repeats a piece of the URL: any piece of it may be one of the password.
"""

from __future__ import annotations

import base64

from geproxy.config import percent
from geproxy.config.sealing import Sealing
from geproxy.crypto.methods import METHODS, Method, decode_key, method_by_name
from geproxy.terms import Address, Endpoint

# Chosen here
WANTED = f"ss://METHOD:PASSWORD@HOST:PORT is wanted; METHOD is one of {', '.join(METHODS)}"
ENCODE = "/ ? # in a password are written %2F %3F %23"


def parse(text: str) -> tuple[Sealing, str]:
    """Read what stands between ss:// and the #tag.

    Returns the sealing, and HOST:PORT unread. Raises ValueError with one line that says what would
    be right and holds no secret.
    """
    text, _, query = text.partition("?")
    userinfo, at, host_port = text.rpartition("@")
    if at:
        method, password = _userinfo(userinfo)
    else:
        method, password, host_port = _legacy(text)
    host_port, _, path = host_port.partition("/")
    if path:
        raise ValueError(f"no path follows the port; {ENCODE}")
    key = _raw_key(query, method)
    if key is not None and password is not None:
        raise ValueError("one secret is wanted: a password or ?key=, not both")
    return Sealing(method, password, key), host_port


def write(sealing: Sealing, host: Address, port: int, tag: str) -> str:
    """Write the URI that every Shadowsocks program takes (SIP002); it holds the secret.

    A raw key, of which SIP002 knows nothing, is for other geproxies. *tag* is plain ASCII.
    """
    where = Endpoint(host, port)
    if sealing.key is not None:
        key = base64.urlsafe_b64encode(sealing.key).decode()
        return f"ss://{sealing.method.name}@{where}?key={key}#{tag}"
    assert sealing.password is not None, "a URL without a secret is completed from a file"
    plain = sealing.method.name.encode() + b":" + sealing.password
    return f"ss://{base64.urlsafe_b64encode(plain).decode().rstrip('=')}@{where}#{tag}"


def masked(sealing: Sealing, where: str) -> str:
    """Write the URL of *where*, HOST:PORT, with *** for its secret: for logs and messages."""
    password = "" if sealing.password is None else ":***"
    query = "" if sealing.key is None else "?key=***"
    return f"ss://{sealing.method.name}{password}@{where}{query}"


def may_hold_secret(text: str) -> bool:
    """Whether *text* behind ss:// may hold a secret, however wrong it is as a URL."""
    name, at, rest = text.partition("#")[0].partition("@")
    return not at or _method(name) is None or "@" in rest or "?" in rest


def _userinfo(text: str) -> tuple[Method, bytes | None]:
    """Read METHOD:PASSWORD, METHOD, or SIP002's base64url of the first."""
    name, colon, password_text = text.partition(":")
    if colon:
        if "/" in password_text:  # base64 may hold it; here the authority would end (RFC 3986)
            raise ValueError(f"the password holds a /; {ENCODE}")
        return method_by_name(name), _password(percent.decode(password_text))
    method = _method(name)
    if method is not None:
        return method, None
    return _method_and_password(_base64_decode(percent.decode(text)))


def _legacy(text: str) -> tuple[Method, bytes, str]:
    plain, at, host_port = _base64_decode(text.encode()).rpartition(b"@")
    if not at:
        raise ValueError(WANTED)
    method, password = _method_and_password(plain)
    return method, password, host_port.decode("ascii", "replace")


def _method_and_password(plain: bytes) -> tuple[Method, bytes]:
    name, colon, password = plain.partition(b":")
    if not colon:
        raise ValueError(WANTED)
    return method_by_name(name.decode("ascii", "replace")), _password(password)


def _password(password: bytes) -> bytes:
    if not password:
        raise ValueError("the password is empty")
    return password


def _method(name: str) -> Method | None:
    try:
        return method_by_name(name)
    except ValueError:
        return None


def _base64_decode(data: bytes) -> bytes:
    """Read base64url, or base64 with + and / as some programs write it; padding may be missing."""
    plain = data.rstrip(b"=").translate(bytes.maketrans(b"+/", b"-_"))
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError(WANTED) from None


def _raw_key(query: str, method: Method) -> bytes | None:
    """Read ?key=; SIP002 has other parameters passed over, but a plugin would change the wire."""
    if "@" in query:
        raise ValueError(f"no @ follows the host; {ENCODE}")
    parameters = [parameter.partition("=") for parameter in query.split("&")]
    if any(name == "plugin" and value for name, _, value in parameters):
        raise ValueError("plugins are not in this version")
    keys = [value for name, _, value in parameters if name == "key"]
    if len(keys) > 1:
        raise ValueError("one ?key= is wanted, not more")
    # latin-1 never fails, and decode_key refuses what is not ASCII.
    return decode_key(percent.decode(keys[0]).decode("latin-1"), method) if keys else None
