"""The README's table, made from the file of a whole run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report import COMPARED, CPU, HEADINGS, SUBJECT, Json, number

# What most people choose a proxy by, and in whose words.
ROWS = {
    "plain/short": "SOCKS5: short connections, 64 at once",
    "plain/syscalls": "SOCKS5: system calls of a short connection",
    "plain/down-4": "SOCKS5: download, 4 connections",
    "plain/up-64": "SOCKS5: upload, 64 connections",
    "plain/udp-1200x64": "SOCKS5: UDP, 1200 bytes, 64 in flight",
    "plain/memory": "SOCKS5: an idle connection",
    "aes-256-gcm/short": "sealed pair: short connections",
    "aes-256-gcm/syscalls": "sealed pair: system calls of a short connection, both ends",
    "aes-256-gcm/down-4": "sealed pair, AES-256-GCM: download, 4 connections",
    "aes-256-gcm/up-64": "sealed pair, AES-256-GCM: upload, 64 connections",
    "chacha20-ietf-poly1305/down-4": "sealed pair, ChaCha20: download, 4 connections",
    "aes-256-gcm/udp-1200x64": "sealed pair: UDP, 1200 bytes, 64 in flight",
    "aes-256-gcm/memory": "sealed pair: an idle connection, both ends",
    "plain/start": "from exec to the first greeting answered",
}
CEILING = "direct"  # the load generator without a proxy


def table(results: Json) -> str:
    """Write the medians of ROWS: geproxy's, and each peer's with geproxy's ratio to it."""
    lines = [
        "| what | figure | geproxy | peers (and how many times theirs geproxy's is) |",
        "|---|---|---|---|",
    ]
    for name, words in ROWS.items():
        lines += _lines(words, results["rows"].get(name, {}))
    return "\n".join(lines)


def _lines(words: str, row: Json) -> Iterator[str]:
    own = row.get(SUBJECT, {}).get("median", {})
    figures = [next((one for one in COMPARED if one in own), ""), *CPU]
    for metric in [one for one in figures if one in own]:
        peers = [
            _peer(label, entry, metric)
            for label, entry in row.items()
            if label not in (SUBJECT, CEILING) and metric in entry["geproxy_ratio"]
        ]
        yield f"| {words} | {HEADINGS[metric]} | {number(own[metric])} | {', '.join(peers)} |"
        words = ""


def _peer(label: str, entry: Json, metric: str) -> str:
    value, ratio = entry["median"].get(metric), entry["geproxy_ratio"][metric]
    return f"{label} {number(value)} ({ratio:.2f} x)"
