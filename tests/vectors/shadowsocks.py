"""Whole connections between ss-local and ss-server of shadowsocks-libev 3.3.5, both ways.

Recorded in November 2026 with Debian's 3.3.5+ds-10, by a relay that noted every piece it read:

    target   accepts on 127.0.0.1, or on ::1
    server   ss-server -s 127.0.0.1 -p A -k "$PASSWORD" -m METHOD
    relay    listens on 127.0.0.1:B, connects to 127.0.0.1:A
    client   ss-local -s 127.0.0.1 -p B -l C -k "$PASSWORD" -m METHOD

A SOCKS5 client at 127.0.0.1:C asks for the target and says FIRST_WORDS, the target answers ANSWER,
the client says MORE_WORDS, the target LAST_ANSWER; then both end.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from geproxy.terms import Endpoint

PASSWORD = b"correct horse"
FIRST_WORDS, MORE_WORDS = b"first words of the client", b"and the client goes on"
ANSWER, LAST_ANSWER = b"the target answers", b"the last of it"

fromhex = bytes.fromhex


@dataclass(frozen=True)
class Recording:
    """What went over the wire, piece by piece as it was read there."""

    method: str
    target: Endpoint
    up: tuple[bytes, ...]
    down: tuple[bytes, ...]


RECORDINGS = [
    Recording(
        "aes-128-gcm",
        Endpoint(IPv4Address("127.0.0.1"), 42903),
        (
            fromhex(
                "4c4614af3ab8043bd1ee2dbbc9db2938e7749fcaa797f9149d525f977f80582174205e084b9e"
                "4ee0e6434a6463366e82a4fbd7968d2d05f8de9bcb5bfc29d13826f87ada4036241412e0ff0a"
                "18735e8c4f221d1838a95f9a7f28f876400fd76c22dbb8c9444505bc1730242fb72ed5cdb775"
                "6eb4"
            ),
            fromhex(
                "03f498aed2bf5672f554c2c4db930f3e5aed0ae7cc514cdba88e381c75639d4fba375eeb71cd"
                "9d55b4ac3445d4850738030ad4b8a976e672"
            ),
        ),
        (
            fromhex(
                "f2516df7d73c705fde4ec338cc00ecf4ce6bae855de6beaa16fa5178c15ddc94114d4b78067d"
                "edd9b0755791d96e3e3be93bc6ea794a6ffdfb75162b0eaee299305e0eab"
            ),
            fromhex(
                "bb398587b4948757ce83811dbc5085b393c502be11dcc700358623b6a9ff74ba024cf507f680"
                "04bf28724e16616a3f92"
            ),
        ),
    ),
    Recording(
        "aes-256-gcm",
        Endpoint("localhost", 34031),
        (
            fromhex(
                "230e30cbd7e82235668342a23a5a153726ea644b1a94861cbb76abe449a1bd95a14827c895df"
                "4b5e03af61782db8de823430a0d06a078fe4f5ff1eb383b93ccc5a01fbffe9375bd2c9c55523"
                "64c926e3d95e52771b0a854867c5bfcdc2062bd45eb48ac5cb009ca0b83b563ce01ce17d49c1"
                "ef60082a0979bd8382166fb63d43a89423580ad30b0d6974"
            ),
            fromhex(
                "709d3b39c44ea8edcfd156bfea4a3d60a709d4670b87de56c4890a42d96ac2b61c0149888db3"
                "1f4b6a945d0977b0a0c6b2617ffd36397a1f"
            ),
        ),
        (
            fromhex(
                "d7163767fb2b7907c2febc94bb4dcb27b4fdba03957f2c09c29d8dd1f24e0c02aeea822c9d97"
                "0cc119c0812875844c7977ebf8403e3bc8ab8f6830e576635dfc36e102d868e83f313600c92d"
                "3798827af3a96fab"
            ),
            fromhex(
                "d2ccc5fe17851d3233d055aacd3d793171d821080ff72f150bcbd3ea829eec56a01d4f6a05c6"
                "42c613a7f835ff4b1b9c"
            ),
        ),
    ),
    Recording(
        "chacha20-ietf-poly1305",
        Endpoint(IPv6Address("::1"), 36497),
        (
            fromhex(
                "b61c7d301da68819430d24a8122ea2dc3c64f092051bbb660dc50327f70999bc4013eb6612df"
                "e07a17596b222612e5395dbd0bfce6f43b0867e7914998d4b006be03fd50eaff23c94a67f328"
                "532f377bd325f234c1d897c9dd5f9a35bd6023d36cca5a388f74728ce84f5056283b460bc3e8"
                "0461fbaa4d5cb323d7b88dcb4b648019dbe280c7b9bbb9c5d3f6c5481493"
            ),
            fromhex(
                "461ac269d1908004b683051dab3ec2939d6fc8cc855872110e8abe1fa274c068a2c23308e961"
                "3a5443ace9b1e55bbed8e60a1c6ff2939936"
            ),
        ),
        (
            fromhex(
                "11a6dc1cb185e295ba0a2cf4233b5b3a06db2582ee93d57648e004106fd77305e5c9c7142b7d"
                "953472c8d2980a8340930f5c44598954850ad1681ae79d9a1544bf2b6d01b3f11ba61c5f728a"
                "9db989da43df0f7d"
            ),
            fromhex(
                "5e08c064ba5e4147638da6d8d63a0f9212ed83246ff80672633e5cedf97d2538c8b40959cb64"
                "7e5181e4d26f793aada8"
            ),
        ),
    ),
]
