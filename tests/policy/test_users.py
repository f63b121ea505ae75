"""Who is let in, what it costs to be refused, and what is remembered."""

import hashlib
from collections.abc import Callable

import pytest

from geproxy.crypto.password import PasswordHash, hash_password
from geproxy.errors import AuthenticationError, LimitError
from geproxy.policy import users as users_module
from geproxy.policy.users import CACHE_ENTRIES, CACHE_SECONDS, Users
from geproxy.streams import Stream
from tests.support.memory import memory_pair


def cheap_hash(password: bytes, ln: int = 10) -> PasswordHash:
    salt = b"a salt of a test"
    digest = hashlib.scrypt(password, salt=salt, n=1 << ln, r=8, p=1, dklen=32)
    return PasswordHash(ln, 8, 1, salt, digest)


SECRET = cheap_hash(b"secret")
CLIENT: Stream = memory_pair()[1]


class Desk:
    """Runs verifications at once, and counts them."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.clients: list[Stream] = []
        self.verdicts: list[bool] = []
        self.failures = 1  # that a wrong one stands for

    def verify(self, key: bytes, check: Callable[[], bool], client: Stream) -> int:
        self.keys.append(key)
        self.clients.append(client)
        verdict = check()
        self.verdicts.append(verdict)
        return 0 if verdict else self.failures

    @property
    def count(self) -> int:
        return len(self.keys)


class Clock:
    """Stands in for the clock of the module under test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(users_module, "time", self)

    def monotonic(self) -> float:
        return self.now


def refused(users: Users, user: str, password: bytes) -> str:
    """The reason why they are not let in."""
    with pytest.raises(AuthenticationError) as caught:
        users.authenticate(user, password, CLIENT)
    assert caught.value.user == user
    assert caught.value.code == "auth"
    return str(caught.value)


def test_the_right_password_lets_in() -> None:
    desk = Desk()
    Users({"alice": hash_password(b"secret")}, desk.verify).authenticate("alice", b"secret", CLIENT)
    assert desk.count == 1


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        pytest.param("alice", b"Secret", "wrong password", id="a wrong password"),
        pytest.param("alice", b"", "wrong password", id="an empty password"),
        pytest.param("alice", b"secret ", "wrong password", id="the password and a space"),
        pytest.param("bob", b"secret", "unknown user", id="an unknown user"),
        pytest.param("", b"secret", "unknown user", id="an empty user"),
        pytest.param("Alice", b"secret", "unknown user", id="another case of the name"),
        pytest.param("alice\0", b"secret", "unknown user", id="the name and a NUL"),
        pytest.param("al\udcffice", b"secret", "unknown user", id="a name that is not UTF-8"),
    ],
)
def test_everything_else_is_refused(user: str, password: bytes, reason: str) -> None:
    assert refused(Users({"alice": SECRET}, Desk().verify), user, password) == reason


def test_nobody_is_let_in_where_there_are_no_users() -> None:
    assert refused(Users({}, Desk().verify), "alice", b"") == "unknown user"


def test_a_success_is_remembered_and_not_verified_again() -> None:
    desk = Desk()
    users = Users({"alice": SECRET}, desk.verify)
    for _ in range(5):
        users.authenticate("alice", b"secret", CLIENT)
    assert desk.count == 1


def test_a_failure_is_not_remembered_and_costs_the_full_time_again() -> None:
    desk = Desk()
    users = Users({"alice": SECRET}, desk.verify)
    for number in range(1, 4):
        refused(users, "alice", b"guess")
        refused(users, "bob", b"guess")
        assert desk.count == 2 * number


def test_a_success_makes_no_other_password_right() -> None:
    users = Users({"alice": SECRET, "bob": SECRET}, Desk().verify)
    users.authenticate("alice", b"secret", CLIENT)
    assert refused(users, "alice", b"guess") == "wrong password"
    assert refused(users, "bob", b"guess") == "wrong password"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param("a", b"bc", id="a letter moves to the password"),
        pytest.param("abc", b"", id="the password moves to the name"),
        pytest.param("", b"abc", id="the name moves to the password"),
    ],
)
def test_the_boundary_of_name_and_password_cannot_be_shifted(user: str, password: bytes) -> None:
    desk = Desk()
    users = Users({"ab": cheap_hash(b"c")}, desk.verify)
    users.authenticate("ab", b"c", CLIENT)
    assert refused(users, user, password) == "unknown user"
    assert len(set(desk.keys)) == desk.count == 2


def test_what_is_remembered_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, desk = Clock(monkeypatch), Desk()
    users = Users({"alice": SECRET}, desk.verify)
    users.authenticate("alice", b"secret", CLIENT)
    clock.now += CACHE_SECONDS - 0.001
    users.authenticate("alice", b"secret", CLIENT)
    assert desk.count == 1  # and being used does not prolong it
    clock.now += 0.001
    users.authenticate("alice", b"secret", CLIENT)
    assert desk.count == 2


def test_the_cache_is_bounded_and_forgets_the_oldest_first() -> None:
    names = [f"user{number}" for number in range(CACHE_ENTRIES + 1)]
    desk = Desk()

    def verify(key: bytes, check: Callable[[], bool], client: Stream) -> int:
        desk.keys.append(key)
        return 0  # right, for thousands of real ones would take too long

    users = Users(dict.fromkeys(names, SECRET), verify)
    for name in names:
        users.authenticate(name, b"secret", CLIENT)
    assert desk.count == len(names)
    users.authenticate(names[-1], b"secret", CLIENT)
    users.authenticate(names[1], b"secret", CLIENT)
    assert desk.count == len(names)
    users.authenticate(names[0], b"secret", CLIENT)
    assert desk.count == len(names) + 1


def test_an_unknown_user_costs_what_the_costliest_known_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, costs = hashlib.scrypt, []

    def scrypt(password: bytes, *, salt: bytes, n: int, r: int, p: int, **more: int) -> bytes:
        costs.append((n, r, p))
        return real(password, salt=salt, n=n, r=r, p=p, **more)

    costly = cheap_hash(b"secret", ln=12)
    users = Users({"alice": SECRET, "carol": costly}, Desk().verify)
    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    refused(users, "carol", b"guess")
    refused(users, "bob", b"guess")
    assert costs[0] == costs[1] == (1 << 12, 8, 1)


def test_those_who_order_the_checks_see_the_client_and_not_whether_its_user_exists() -> None:
    desk = Desk()
    users = Users({"alice": SECRET}, desk.verify)
    refused(users, "alice", b"guess")
    refused(users, "bob", b"guess")
    assert desk.clients == [CLIENT, CLIENT]
    assert desk.verdicts == [False, False]
    assert len(desk.keys[0]) == len(desk.keys[1])


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_a_failure_tells_of_those_that_were_refused_before_it(user: str) -> None:
    desk = Desk()
    desk.failures = 37
    with pytest.raises(AuthenticationError) as caught:
        Users({"alice": SECRET}, desk.verify).authenticate(user, b"guess", CLIENT)
    assert caught.value.count == 37


def test_one_password_of_one_user_has_one_key_so_that_overlapping_logins_share_a_run() -> None:
    desk = Desk()
    users = Users({"alice": SECRET}, desk.verify)
    refused(users, "alice", b"guess")
    refused(users, "alice", b"guess")
    refused(users, "alice", b"other")
    assert desk.keys[0] == desk.keys[1] != desk.keys[2]


def test_keys_do_not_show_the_password_and_differ_from_worker_to_worker() -> None:
    first, second = Desk(), Desk()
    for desk in (first, second):
        Users({"alice": SECRET}, desk.verify).authenticate("alice", b"secret", CLIENT)
    assert first.keys != second.keys
    assert b"secret" not in first.keys[0] + second.keys[0]


def test_a_busy_verifier_is_no_verdict_and_is_not_remembered() -> None:
    def busy(key: bytes, check: Callable[[], bool], client: Stream) -> int:
        raise LimitError("too many passwords to check at once")

    for user in ("alice", "bob"):
        with pytest.raises(LimitError):
            Users({"alice": SECRET}, busy).authenticate(user, b"secret", CLIENT)
