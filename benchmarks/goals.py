"""What geproxy is to reach: ratios to its peers within one run, and a few absolute figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

PLAIN_PEERS = ("danted", "v2ray", "microsocks")
SEALED_PEERS = ("ss-libev", "go-shadowsocks2")
BULK = ("down-4", "up-4", "down-64", "up-64")
GCM, CHACHA20 = "aes-256-gcm", "chacha20-ietf-poly1305"

# The median of one metric for one label of a row, and the ratio of two labels' in that order; None
# where there is none.
Median = Callable[[str, str, str], float | None]
Ratio = Callable[[str, str, str, str], float | None]


@dataclass(frozen=True)
class Goal:
    """One figure of geproxy's against the best of some peers, or against 1 of its own unit."""

    row: str
    metric: str
    against: tuple[str, ...]  # labels of the same row; none: the figure itself is judged
    must: float
    aim: float
    more_is_better: bool = False
    subject: str = "geproxy"

    def verdict(self, median: Median, ratio_of: Ratio) -> Mapping[str, object]:
        """Judge it; what was not measured is neither met nor missed."""
        peers = {name: median(self.row, name, self.metric) for name in self.against}
        present = {name: value for name, value in peers.items() if value}
        best = (max if self.more_is_better else min)(present, key=present.__getitem__, default="")
        ratio = None
        if not self.against:
            ratio = median(self.row, self.subject, self.metric)
        elif best:
            ratio = ratio_of(self.row, self.subject, best, self.metric)
        return {
            "row": self.row,
            "metric": self.metric,
            "against": list(self.against),
            "best": best,
            "sense": ">=" if self.more_is_better else "<=",
            "ratio": ratio,
            "must": self.must,
            "aim": self.aim,
            "must_met": self._meets(ratio, self.must),
            "aim_met": self._meets(ratio, self.aim),
        }

    def _meets(self, ratio: float | None, bound: float) -> bool | None:
        if ratio is None:
            return None
        return ratio >= bound if self.more_is_better else ratio <= bound


def goals(base_label: str, loaded_label: str) -> Iterator[Goal]:
    """All of them; the labels are the least and the 10 000 open connections of scale/open."""
    yield from _plain()
    yield from _sealed()
    for row in ("udp-1200x64", "udp-64x64"):
        yield Goal(f"plain/{row}", "per_second", ("danted", "v2ray"), 1.4, 2.0, True)
        for method in (GCM, CHACHA20):
            yield Goal(f"{method}/{row}", "per_second", SEALED_PEERS, 0.7, 1.2, True)
    yield Goal("http/short", "per_second", ("tinyproxy",), 0.7, 1.0, True)
    for row in BULK:
        yield Goal(f"http/{row}", "cpu_s_per_gb", ("v2ray",), 0.5, 0.35)
    yield Goal("plain/memory", "kib_per_connection", ("microsocks",), 1.5, 1.0)
    yield Goal(f"{GCM}/memory", "kib_per_connection", ("ss-libev",), 1.5, 1.0)
    yield Goal("scale/open", "cpu_ms", (base_label,), 1.3, 1.1, subject=loaded_label)
    yield Goal("plain/start", "start_seconds", (), 1.0, 0.4)
    for group in ("plain", GCM):
        yield Goal(f"{group}/beside-bulk", "p99_ms", (), 100.0, 100.0)


def _plain() -> Iterator[Goal]:
    for row in BULK:
        yield Goal(f"plain/{row}", "cpu_s_per_gb", PLAIN_PEERS, 0.5, 0.35)
        yield Goal(f"plain/{row}", "mb_per_second", PLAIN_PEERS, 1.2, 1.6, True)
    yield Goal("plain/short", "cpu_ms", ("microsocks",), 1.6, 1.2)
    yield Goal("plain/short", "cpu_ms", ("danted",), 0.75, 0.55)
    yield Goal("plain/short", "per_second", ("microsocks",), 0.7, 1.0, True)
    yield Goal("plain/short", "per_second", ("danted",), 1.4, 2.0, True)
    yield Goal("plain/short", "p99_ms", ("microsocks",), 1.5, 1.0)


def _sealed() -> Iterator[Goal]:
    for row in BULK:
        yield Goal(f"{GCM}/{row}", "mb_per_second", ("ss-libev",), 1.7, 2.5, True)
        yield Goal(f"{GCM}/{row}", "mb_per_second", ("go-shadowsocks2",), 1.3, 1.8, True)
        yield Goal(f"{GCM}/{row}", "cpu_s_per_gb", SEALED_PEERS, 0.7, 0.5)
        yield Goal(f"{CHACHA20}/{row}", "mb_per_second", ("ss-libev",), 1.5, 2.0, True)
        yield Goal(f"{CHACHA20}/{row}", "mb_per_second", ("go-shadowsocks2",), 1.2, 1.6, True)
    for method in (GCM, CHACHA20):
        yield Goal(f"{method}/short", "per_second", ("go-shadowsocks2",), 0.6, 1.0, True)
        yield Goal(f"{method}/short", "per_second", ("ss-libev",), 0.35, 0.6, True)
