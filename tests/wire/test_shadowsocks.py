"""SIP004 streams: what real peers wrote, any cut, any flip, and a nonce that never comes twice."""

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geproxy.crypto.aead import NONCE_BYTES, TAG_BYTES, Aead, Buffer, TwinAead, make_aead
from geproxy.crypto.kdf import key_from_password, session_subkey
from geproxy.crypto.methods import AES_128_GCM, CHACHA20_POLY1305, METHODS, Method
from geproxy.errors import AuthenticationError, ProtocolError
from geproxy.terms import Endpoint, Outcome
from geproxy.wire.shadowsocks import (
    CHUNK_BYTES,
    CHUNK_OVERHEAD_BYTES,
    MAX_CHUNK_BYTES,
    MAX_SEALED_CHUNK_BYTES,
    MAX_TARGET_BYTES,
    SEALED_LENGTH_BYTES,
    ChunkOpener,
    ChunkSealer,
    Target,
    sealed_size,
)
from tests.support.codec import check_any_bytes, check_codec, check_refused
from tests.vectors.rfc1928 import ADDRESSES, IMPOSSIBLE_ADDRESSES
from tests.vectors.shadowsocks import (
    ANSWER,
    FIRST_WORDS,
    LAST_ANSWER,
    MORE_WORDS,
    PASSWORD,
    RECORDINGS,
    Recording,
)

Make = Callable[[Method, bytes], Aead]

KEY = bytes(range(16))
ROOM_BYTES = 4 * MAX_CHUNK_BYTES
EVERY_RECORDING = pytest.mark.parametrize(
    "recording", RECORDINGS, ids=[recording.method for recording in RECORDINGS]
)
EVERY_MAKER = pytest.mark.parametrize(
    "make", [pytest.param(make_aead, id="fast"), pytest.param(TwinAead, id="twin")]
)


class Notebook:
    """An Aead that seals nothing: it notes nonces and lengths, and leaves the bytes as they are."""

    def __init__(self) -> None:
        self.nonces: list[bytes] = []
        self.sizes: list[int] = []
        self.fails_at = -1

    def encrypt_into(self, nonce: bytes, data: Buffer, nothing: None, buf: memoryview, /) -> int:
        return self._note(nonce, data, buf, len(data))

    def decrypt_into(self, nonce: bytes, data: Buffer, nothing: None, buf: memoryview, /) -> int:
        return self._note(nonce, data, buf, len(buf))

    def encrypt(self, nonce: bytes, data: Buffer, nothing: None, /) -> bytes:
        buf = bytearray(len(data) + TAG_BYTES)
        self.encrypt_into(nonce, data, None, memoryview(buf))
        return bytes(buf)

    def decrypt(self, nonce: bytes, data: Buffer, nothing: None, /) -> bytes:
        buf = bytearray(len(data) - TAG_BYTES)
        self.decrypt_into(nonce, data, None, memoryview(buf))
        return bytes(buf)

    def _note(self, nonce: bytes, data: Buffer, buf: memoryview, size_bytes: int) -> int:
        assert abs(len(buf) - len(data)) == TAG_BYTES
        self.nonces.append(nonce)
        self.sizes.append(size_bytes)
        if len(self.nonces) == self.fails_at:
            raise MemoryError
        buf[:size_bytes] = data[:size_bytes]
        return len(buf)


def aead(make: Make = make_aead) -> Aead:
    return make(AES_128_GCM, KEY)


def seal(cipher: Aead, *pieces: bytes) -> bytes:
    """*pieces*, one call of the sealer each."""
    sealer = ChunkSealer(lambda: cipher)
    sealed = bytearray()
    for piece in pieces:
        buffer = bytearray(sealed_size(len(piece)))
        assert sealer.seal_into(piece, memoryview(buffer)) == len(buffer)
        sealed += buffer
    return bytes(sealed)


def seal_length(length: int) -> bytes:
    """A first chunk's length, whatever it says."""
    sealed = bytearray(SEALED_LENGTH_BYTES)
    aead().encrypt_into(bytes(NONCE_BYTES), length.to_bytes(2, "big"), None, memoryview(sealed))
    return bytes(sealed)


def seal_payload(number: int, payload: bytes) -> bytes:
    """What follows a length, under nonce *number*."""
    sealed = bytearray(len(payload) + TAG_BYTES)
    aead().encrypt_into(number.to_bytes(NONCE_BYTES, "little"), payload, None, memoryview(sealed))
    return bytes(sealed)


class Reader:
    """Opens what it is fed, keeping what is not yet whole."""

    def __init__(self, cipher: Aead, room_bytes: int = ROOM_BYTES) -> None:
        self.opener = ChunkOpener(lambda: cipher)
        self.held = b""
        self.plain = b""
        self._room = memoryview(bytearray(room_bytes))

    def feed(self, piece: bytes) -> None:
        self.held += piece
        while True:
            used, written = self.opener.open_into(memoryview(self.held), self._room)
            self.held = self.held[used:]
            self.plain += bytes(self._room[:written])
            if not used:
                return

    def feed_all(self, pieces: Iterable[bytes]) -> bytes:
        for piece in pieces:
            self.feed(piece)
        return self.plain


def parts(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """*data* cut at each of *cuts*, as far as they lie inside."""
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


# -- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "wire"), [pytest.param(*row[1:], id=row[0]) for row in ADDRESSES]
)
def test_a_target_is_the_address_block_of_socks5(endpoint: Endpoint, wire: bytes) -> None:
    check_codec(Target(endpoint), wire)


@pytest.mark.parametrize(
    ("wire", "outcome"), [pytest.param(*row[1:], id=row[0]) for row in IMPOSSIBLE_ADDRESSES]
)
def test_an_impossible_target_is_refused_at_its_last_octet(wire: bytes, outcome: Outcome) -> None:
    check_refused(Target, wire, outcome)


def test_the_limit_is_the_length_of_the_longest_target() -> None:
    assert len(Target(Endpoint("n" * 255, 1)).encode()) == MAX_TARGET_BYTES == 259


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"", b"\x01", b"\x03", b"\x04"]), st.binary(max_size=300))
def test_any_bytes_give_a_target_none_or_a_protocol_error(first: bytes, rest: bytes) -> None:
    check_any_bytes(Target, first + rest)


# -- what other implementations wrote ------------------------------------------------------------


def open_recorded(recording: Recording, pieces: tuple[bytes, ...], make: Make) -> list[bytes]:
    """What each of *pieces* brought."""
    method = METHODS[recording.method]
    key = key_from_password(PASSWORD, method.key_bytes)
    salt, first = pieces[0][: method.salt_bytes], pieces[0][method.salt_bytes :]
    reader = Reader(make(method, session_subkey(key, salt)))
    found = []
    for piece in (first, *pieces[1:]):
        before = len(reader.plain)
        reader.feed(piece)
        found.append(reader.plain[before:])
    assert reader.opener.between_chunks
    assert not reader.held
    return found


@EVERY_MAKER
@EVERY_RECORDING
def test_what_ss_local_sealed_is_its_target_and_the_clients_words(
    recording: Recording, make: Make
) -> None:
    first, second = open_recorded(recording, recording.up, make)
    assert Target.decode(first) == (Target(recording.target), len(first) - len(FIRST_WORDS))
    assert first.endswith(FIRST_WORDS)
    assert second == MORE_WORDS


@EVERY_MAKER
@EVERY_RECORDING
def test_what_ss_server_sealed_is_the_targets_answer_and_nothing_in_front(
    recording: Recording, make: Make
) -> None:
    assert open_recorded(recording, recording.down, make) == [ANSWER, LAST_ANSWER]


@EVERY_MAKER
@EVERY_RECORDING
def test_we_seal_the_same_words_to_the_same_bytes(recording: Recording, make: Make) -> None:
    """ss-local gives the target a chunk of its own."""
    method = METHODS[recording.method]
    key = key_from_password(PASSWORD, method.key_bytes)
    salt = recording.up[0][: method.salt_bytes]
    head = Target(recording.target).encode()
    sealed = seal(make(method, session_subkey(key, salt)), head, FIRST_WORDS, MORE_WORDS)
    assert salt + sealed == b"".join(recording.up)


# -- nonces --------------------------------------------------------------------------------------


def little_endian(count: int) -> list[bytes]:
    """SIP004: an unsigned little-endian integer of 12 bytes that begins with 0."""
    return [number.to_bytes(NONCE_BYTES, "little") for number in range(count)]


def test_the_nonce_is_a_little_endian_counter_that_grows_with_each_seal() -> None:
    notebook = Notebook()
    seal(notebook, b"one", b"two", b"x" * (CHUNK_BYTES + 1))
    assert notebook.nonces[:3] == [b"\0" * 12, b"\x01" + b"\0" * 11, b"\x02" + b"\0" * 11]
    assert notebook.nonces == little_endian(8)


@pytest.mark.slow
def test_no_nonce_comes_twice_past_65536_chunks() -> None:
    notebook, chunks = Notebook(), (1 << 16) + 50
    sealer, opener = ChunkSealer(lambda: notebook), Notebook()
    reader = ChunkOpener(lambda: opener)
    sealed, plain = memoryview(bytearray(sealed_size(1))), memoryview(bytearray(1))
    for _ in range(chunks):
        assert sealer.seal_into(b"x", sealed) == len(sealed)
        assert reader.open_into(sealed, plain) == (len(sealed), 1)
    assert len(set(notebook.nonces)) == 2 * chunks
    assert notebook.nonces == opener.nonces == little_endian(2 * chunks)


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_nonce_is_spent_even_if_its_seal_failed(fails_at: int) -> None:
    notebook = Notebook()
    notebook.fails_at = fails_at
    sealer = ChunkSealer(lambda: notebook)
    buffer = memoryview(bytearray(200))
    for _ in range(5):
        try:
            sealer.seal_into(b"hello", buffer)
        except MemoryError:
            pass
    assert len(set(notebook.nonces)) == len(notebook.nonces)
    assert notebook.nonces == sorted(notebook.nonces)


def test_two_calls_of_the_sealer_are_one_stream() -> None:
    assert Reader(aead()).feed_all([seal(aead(), b"one", b"two", b"three")]) == b"onetwothree"


# -- chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_bytes", "chunks"),
    [
        pytest.param(0, [], id="nothing is no chunk"),
        pytest.param(1, [1], id="one byte"),
        pytest.param(CHUNK_BYTES - 1, [16_255], id="one less than a chunk holds"),
        pytest.param(CHUNK_BYTES, [16_256], id="as much as a chunk holds"),
        pytest.param(CHUNK_BYTES + 1, [16_256, 1], id="one more"),
        pytest.param(3 * CHUNK_BYTES, [16_256] * 3, id="three full ones"),
        pytest.param(65_536, [16_256] * 4 + [512], id="64 KiB"),
    ],
)
def test_no_chunk_holds_more_than_14_bits_can_say(size_bytes: int, chunks: list[int]) -> None:
    notebook = Notebook()
    sealed = seal(notebook, bytes(size_bytes))
    assert notebook.sizes == [size for chunk in chunks for size in (2, chunk)]
    assert len(sealed) == sealed_size(size_bytes) == size_bytes + len(chunks) * (2 + 16 + 16)


def test_the_sizes_add_up() -> None:
    assert MAX_CHUNK_BYTES == 16_383
    assert CHUNK_OVERHEAD_BYTES == 34
    assert MAX_SEALED_CHUNK_BYTES == 16_417
    assert sealed_size(CHUNK_BYTES) == 16_290
    assert CHUNK_BYTES <= MAX_CHUNK_BYTES
    assert CHUNK_BYTES % 128 == 0, "what OpenSSL's Poly1305 takes at once"


@pytest.mark.parametrize("length", [0x4000, 0x4001, 0x7FFF, 0x8000, 0xBFFF, 0xC000, 0xFFFF])
def test_a_length_with_a_top_bit_set_is_a_protocol_error(length: int) -> None:
    with pytest.raises(ProtocolError, match=str(length)):
        Reader(aead()).feed(seal_length(length))


@pytest.mark.parametrize("number", range(3))
def test_an_empty_chunk_is_no_end_of_the_stream(number: int) -> None:
    """Nobody needs to send one, and nothing forbids it."""
    reader = Reader(aead())
    words = [b"one", b"two", b"three"]
    words[number] = b""
    for place, word in enumerate(words):
        length = bytearray(SEALED_LENGTH_BYTES)
        nonce = (2 * place).to_bytes(NONCE_BYTES, "little")
        aead().encrypt_into(nonce, len(word).to_bytes(2, "big"), None, memoryview(length))
        reader.feed(bytes(length))
        assert not reader.opener.between_chunks
        reader.feed(seal_payload(2 * place + 1, word))
        assert reader.opener.between_chunks
        assert reader.opener.authenticated
    assert reader.plain == b"".join(words)
    assert not reader.held


def test_only_a_whole_chunk_proves_the_key() -> None:
    sealed = seal(aead(), b"hello")
    reader = Reader(aead())
    states = []
    for place in range(len(sealed)):
        states.append((reader.opener.authenticated, reader.opener.between_chunks))
        reader.feed(sealed[place : place + 1])
    assert states == [(False, True)] * 18 + [(False, False)] * 21
    assert (reader.opener.authenticated, reader.opener.between_chunks) == (True, True)


def test_what_has_no_room_waits_where_it_is() -> None:
    sealed = seal(aead(), b"first", b"second")
    opener = ChunkOpener(aead)
    small, large = memoryview(bytearray(5)), memoryview(bytearray(6))
    used, written = opener.open_into(memoryview(sealed), small)
    assert (bytes(small[:written]), used) == (b"first", 5 + 34 + SEALED_LENGTH_BYTES)
    assert opener.open_into(memoryview(sealed)[used:], small) == (0, 0)
    assert opener.open_into(memoryview(sealed)[used:], large) == (6 + TAG_BYTES, 6)
    assert bytes(large) == b"second"


def test_nothing_is_written_behind_what_was_opened() -> None:
    plain = bytearray(b"." * 20)
    ChunkOpener(aead).open_into(memoryview(seal(aead(), b"hello")), memoryview(plain))
    assert plain == b"hello" + b"." * 15


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_fast_one_and_the_twin_write_one_stream(method: Method) -> None:
    key = bytes(range(method.key_bytes))
    pieces = [b"x", random.Random(1).randbytes(40_000), b"", random.Random(2).randbytes(16_383)]
    sealed = seal(make_aead(method, key), *pieces)
    assert seal(TwinAead(method, key), *pieces) == sealed
    for make in (make_aead, TwinAead):
        assert Reader(make(method, key)).feed_all([sealed]) == b"".join(pieces)


# -- any cut, any flip, any end ------------------------------------------------------------------

streams = st.lists(st.binary(max_size=60), max_size=6)
places = st.lists(st.integers(0, 700), max_size=12)


@settings(max_examples=150, deadline=None)
@given(streams, places, st.integers(60, 200))
@example([b"ab", b"cd"], [17, 18, 19, 34, 35, 36, 37], 60)
def test_any_split_gives_the_same_plaintext(
    pieces: list[bytes], cuts: list[int], room_bytes: int
) -> None:
    reader = Reader(aead(), room_bytes)
    assert reader.feed_all(parts(seal(aead(), *pieces), cuts)) == b"".join(pieces)
    assert reader.opener.between_chunks
    assert not reader.held


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70_000), st.lists(st.integers(0, 70_000), max_size=8), st.integers(0, 99))
def test_any_split_of_long_chunks_gives_the_same_plaintext(
    size_bytes: int, cuts: list[int], seed: int
) -> None:
    plain = random.Random(seed).randbytes(size_bytes)
    assert Reader(aead()).feed_all(parts(seal(aead(), plain), cuts)) == plain


def read_what_was_changed(sealed: bytes, cuts: list[int], plain: bytes) -> None:
    """Prove that *sealed* gives a true prefix of *plain*, then AuthenticationError."""
    reader = Reader(aead())
    with pytest.raises(AuthenticationError):
        reader.feed_all(parts(sealed, cuts))
    assert plain.startswith(reader.plain)
    assert reader.plain != plain


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), places, st.data())
def test_any_flipped_byte_ends_the_stream_after_a_true_prefix(
    pieces: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    sealed = bytearray(seal(aead(), *pieces))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    read_what_was_changed(bytes(sealed), cuts, b"".join(pieces))


@pytest.mark.parametrize(
    "order",
    [
        pytest.param((1, 0, 2), id="swapped"),
        pytest.param((0, 0, 1, 2), id="doubled"),
        pytest.param((0, 2), id="left out"),
        pytest.param((2,), id="the last alone"),
    ],
)
def test_whole_chunks_out_of_their_place_are_noticed(order: tuple[int, ...]) -> None:
    words = [b"one", b"two", b"six"]
    sealed = seal(aead(), *words)
    size = len(sealed) // 3
    chunks = [sealed[number * size : (number + 1) * size] for number in order]
    read_what_was_changed(b"".join(chunks), [], b"".join(words))


def test_a_flip_in_a_long_stream_is_noticed_wherever_it_is() -> None:
    plain = random.Random(3).randbytes(3 * CHUNK_BYTES)
    sealed = bytearray(seal(make_aead(CHACHA20_POLY1305, bytes(32)), plain))
    dice = random.Random(4)
    for _ in range(100):
        place = dice.randrange(len(sealed))
        sealed[place] ^= 0x80
        reader = Reader(make_aead(CHACHA20_POLY1305, bytes(32)), MAX_CHUNK_BYTES)
        with pytest.raises(AuthenticationError):
            reader.feed(bytes(sealed))
        assert reader.plain == plain[: place // sealed_size(CHUNK_BYTES) * CHUNK_BYTES]
        sealed[place] ^= 0x80


def test_a_cut_stream_ends_between_chunks_at_a_chunks_edge_and_nowhere_else() -> None:
    words = [b"one", b"", b"four", b"x" * 100]
    sealed = seal(aead(), *words)
    edges = {len(seal(aead(), *words[:count])) for count in range(len(words) + 1)}
    for cut in range(len(sealed) + 1):
        reader = Reader(aead())
        reader.feed(sealed[:cut])
        ended_well = reader.opener.between_chunks and not reader.held
        assert ended_well == (cut in edges)
        assert b"".join(words).startswith(reader.plain)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=SEALED_LENGTH_BYTES, max_size=200))
def test_garbage_is_no_stream(garbage: bytes) -> None:
    with pytest.raises(AuthenticationError):
        Reader(aead()).feed(garbage)


def test_a_cipher_is_kept_while_more_than_a_chunk_moves_at_a_time() -> None:
    """An idle connection, which has moved little last, has none."""
    made: list[Aead] = []

    def make() -> Aead:
        made.append(aead())
        return made[-1]

    room = memoryview(bytearray(ROOM_BYTES))
    sealer, opener = ChunkSealer(make), ChunkOpener(make)
    for times, (plain, ciphers) in enumerate(
        [(bytes(2 * CHUNK_BYTES), 2), (bytes(2 * CHUNK_BYTES), 2), (b"x", 2), (b"x", 4), (b"x", 6)]
    ):
        sealed = memoryview(bytearray(sealed_size(len(plain))))
        sealer.seal_into(plain, sealed)
        opener.open_into(sealed, room)
        assert len(made) == ciphers, f"after {times + 1} times"
