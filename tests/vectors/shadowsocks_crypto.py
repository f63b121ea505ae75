"""Known answers for what Shadowsocks AEAD is made of, with the document or command of each."""

from __future__ import annotations

fromhex = bytes.fromhex

# OpenSSL 3.0.19: openssl enc -aes-256-cbc -P -nosalt -md md5 -k PASSWORD prints key= (32 bytes)
# and iv= (16 more of the same digest chain).
PASSWORD_KEYS = [
    (
        "foobar",
        b"foobar",
        (
            "3858f62230ac3c915f300c664312c63f568378529614d22ddb49237d2f60bfdf"
            "0ebf5878e82af7da618ed56fc67d4ab7"
        ),
    ),
    (
        "a password with a blank",
        b"correct horse",
        (
            "3cb4e732631f47e6eb961f34554b7cde8ace33bdac244269f1a356b6733e4cf5"
            "1f7ae7d9c7ace0d0538689077f7cebeb"
        ),
    ),
    (
        "no password at all",
        b"",
        (
            "d41d8cd98f00b204e9800998ecf8427e59adb24ef3cdbe0297f05b395827453f"
            "8b8154f03b75f58a6c702235bf643629"
        ),
    ),
]

# RFC 5869 appendix A.4 to A.7: IKM, salt, info, OKM
HKDF_SHA1 = [
    (
        "A.4, short inputs",
        bytes((0x0B,)) * 11,
        bytes(range(0x0D)),
        bytes(range(0xF0, 0xFA)),
        "085a01ea1b10f36933068b56efa5ad81a4f14b822f5b091568a9cdd4f155fda2c22e422478d305f3f896",
    ),
    (
        "A.5, long inputs",
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        (
            "0bd770a74d1160f7c9f12cd5912a06ebff6adcae899d92191fe4305673ba2ffe"
            "8fa3f1a4e5ad79f3f334b3b202b2173c486ea37ce3d397ed034c7f9dfeb15c5e"
            "927336d0441f4c4300e2cff0d0900b52d3b4"
        ),
    ),
    (
        "A.6, an empty salt and no info",
        bytes((0x0B,)) * 22,
        b"",
        b"",
        "0ac1af7002b3d761d1e55298da9d0506b9ae52057220a306e07b6b87e8df21d0ea00033de03984d34918",
    ),
    (
        "A.7, the salt that stands for none",
        bytes((0x0C,)) * 22,
        bytes(20),
        b"",
        "2c91117204d745f3500d636a62f64f0ab3bae548aa53d423b0d1f27ebba6f5e5673a081d70cce7acfc48",
    ),
]

# "The Galois/Counter Mode of Operation", submitted to NIST, appendix B: the test cases that have
# the key sizes and the nonce size of SIP004 and no associated data. Key, nonce, plain, sealed, tag
_GCM_PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
_GCM_KEY = "feffe9928665731c6d6a8f9467308308"
_GCM_NONCE = "cafebabefacedbaddecaf888"
GCM = [
    ("1", "aes-128-gcm", "00" * 16, "00" * 12, "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
    (
        "2",
        "aes-128-gcm",
        "00" * 16,
        "00" * 12,
        "00" * 16,
        "0388dace60b6a392f328c2b971b2fe78",
        "ab6e47d42cec13bdf53a67b21257bddf",
    ),
    (
        "3",
        "aes-128-gcm",
        _GCM_KEY,
        _GCM_NONCE,
        _GCM_PLAIN,
        (
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985"
        ),
        "4d5c2af327cd64a62cf35abd2ba6fab4",
    ),
    ("13", "aes-256-gcm", "00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    (
        "14",
        "aes-256-gcm",
        "00" * 32,
        "00" * 12,
        "00" * 16,
        "cea7403d4d606b6e074ec5d3baf39d18",
        "d0d1c8a799996bf0265b98b5d48ab919",
    ),
    (
        "15",
        "aes-256-gcm",
        _GCM_KEY * 2,
        _GCM_NONCE,
        _GCM_PLAIN,
        (
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
        ),
        "b094dac5d93471bdec1a502270e3cc6c",
    ),
]

# RFC 8439 section 2.8.2. The case has associated data, which SIP004 never has: they change the tag
# and nothing else. With the one-time key, which the section prints too, the tag for none of them
# can be worked out by Poly1305 alone.
CHACHA_KEY = bytes(range(0x80, 0xA0))
CHACHA_NONCE = fromhex("070000004041424344454647")
CHACHA_ASSOCIATED = fromhex("50515253c0c1c2c3c4c5c6c7")
CHACHA_PLAIN = (
    b"Ladies and Gentlemen of the class of '99: "
    b"If I could offer you only one tip for the future, sunscreen would be it."
)
CHACHA_SEALED = fromhex(
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
    "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
    "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b6116"
)
CHACHA_TAG = fromhex("1ae10b594f09e26a7e902ecbd0600691")
CHACHA_ONE_TIME_KEY = fromhex("7bac2b252db447af09b67a55a4e955840ae1d6731075d9eb2a9375783ed553ff")
