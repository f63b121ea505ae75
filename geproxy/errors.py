"""The error tree: few branches, each with a stable code and what to tell a client.

``code`` is the field of the log and the label of a metric; ``outcome`` is protocol-neutral, and
each inbound turns it into its own codes. The sessions' spine is the one place that catches these.
"""

from __future__ import annotations

from geproxy.terms import Outcome


class GeproxyError(Exception):
    """Anything that ends a session, or a start, for a reason we know."""

    code = "internal"
    outcome = Outcome.FAILED
    # Set where a client must not learn that it failed: it is kept in silence until the time of its
    # handshake is over.
    in_silence = False


class ConfigError(GeproxyError):
    """A configuration that cannot be used; every problem at once."""

    code = "config"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{problem.key}: {problem.text}" for problem in problems))
        self.problems = problems


class Problem:
    """One wrong setting: its full key (may be "" for the whole file), and what would be right."""

    __slots__ = ("key", "text")

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self.text = text

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text

    def __repr__(self) -> str:
        return f"Problem({self.key!r}, {self.text!r})"


class StartError(GeproxyError):
    """The configuration is right, but the program cannot run: a port taken, a worker that dies."""

    code = "start"


class ProtocolError(GeproxyError):
    """Bytes that no document allows, or a conversation that broke off."""

    code = "protocol"

    def __init__(self, text: str, outcome: Outcome = Outcome.FAILED) -> None:
        super().__init__(text)
        self.outcome = outcome


class CommandError(GeproxyError):
    """A command that we do not have."""

    code = "command"
    outcome = Outcome.COMMAND_UNSUPPORTED


class AuthenticationError(GeproxyError):
    """The client did not prove who it is."""

    code = "auth"
    outcome = Outcome.DENIED

    def __init__(self, text: str, user: str | None = None, count: int = 1) -> None:
        """*count* is 1, and how many of its source were refused unchecked before (UncheckedError)
        and are told of with it."""
        super().__init__(text)
        self.user = user  # as claimed
        self.count = count


class ReplayError(AuthenticationError):
    """Bytes that were authentic once, and were sent again."""

    code = "replay"


class DeniedError(GeproxyError):
    """Policy says no."""

    code = "denied"
    outcome = Outcome.DENIED


class DialError(GeproxyError):
    """The target, or the peer on the way to it, cannot be reached."""

    def __init__(self, text: str, code: str, outcome: Outcome) -> None:
        super().__init__(text)
        self.code = code
        self.outcome = outcome


class ResolveError(DialError):
    """A name that has no address, or got none in time."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "resolve", Outcome.HOST_UNREACHABLE)


class NoAnswerError(ResolveError):
    """A name of which nothing is known: the name servers were silent, or failed themselves."""


class DropError(GeproxyError):
    """A datagram that went nowhere; *code* says why, and the association goes on."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ResetError(GeproxyError):
    """A connection that broke instead of ending."""

    code = "reset"


class VanishedError(ResetError):
    """A connection whose other side no longer answers (keepalive, or bytes sent in vain)."""

    code = "timeout"


class DeadlineError(GeproxyError):
    """A step that took longer than it may."""

    code = "timeout"
    outcome = Outcome.TIMED_OUT


class IdleError(GeproxyError):
    """A relay in which nothing moved for too long."""

    code = "idle"


class LimitError(GeproxyError):
    """One of our own limits was reached."""

    code = "limit"


class UncheckedError(LimitError):
    """There was no time to check the password of a source that seems to guess; *count* of them."""

    def __init__(self, text: str, count: int) -> None:
        super().__init__(text)
        self.count = count


class EvictedError(LimitError):
    """A client that had proven nothing was ended early, to make room for others."""


class ShutdownError(GeproxyError):
    """The program stops, and this session with it."""

    code = "shutdown"
