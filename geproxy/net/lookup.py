"""What answers questions about names: the seam between a resolver and whatever it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from geproxy.terms import Address

# Chosen here
# Of one name; hostile zones have thousands. Twice as many as are dialed, for rules may close some.
ADDRESSES = 16

Found = tuple[Address, ...]  # ADDRESSES at most


@dataclass(slots=True)
class Question:
    """One name, and one family of addresses (socket's AF_INET or AF_INET6) that it may have."""

    name: str
    family: int
    enough: bool = False  # the other family is there: an answer is welcome, further tries are not


class LookUp(Protocol):
    """What answers questions: the system, for one."""

    @property
    def families(self) -> tuple[int, ...]:
        """The families to ask for, each by a question of its own."""

    @property
    def places(self) -> int:
        """How many questions it takes at once."""

    def ask(self, question: Question) -> Found:
        """Return the addresses, preferred ones first; waits in its greenlet, for a bounded time.

        Raises ResolveError, or returns none, where the name has no such address, NoAnswerError
        where nobody could tell, and LimitError for a failure of our own.
        """
