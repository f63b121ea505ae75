"""One SVG drawing of a run: a panel per row and metric, a bar per contender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

# Which metrics of which rows are drawn, by the end of a row's name.
DRAWN = {
    "/short": ("per_second", "cpu_ms", "p99_ms"),
    "/down-4": ("mb_per_second", "cpu_s_per_gb"),
    "/up-4": ("mb_per_second", "cpu_s_per_gb"),
    "/down-64": ("mb_per_second", "cpu_s_per_gb"),
    "/latency": ("p50_ms",),
    "/syscalls": ("syscalls",),
    "/beside-bulk": ("p99_ms",),
    "/udp-1200x64": ("per_second", "cpu_s_per_100k"),
    "/udp-1200x1": ("p50_ms",),
    "/memory": ("kib_per_connection",),
    "/start": ("start_seconds",),
    "scale/open": ("cpu_ms", "kib_per_connection", "idle_cpu_ms_per_s"),
    "scale/users": ("per_second", "cpu_ms"),
    "scale/listeners": ("per_second", "cpu_ms"),
    "scale/workers-short": ("per_second",),
    "scale/workers-down-4": ("mb_per_second",),
}
TITLES = {
    "per_second": "per second",
    "mb_per_second": "MB per second",
    "cpu_ms": "CPU ms each (less is better)",
    "cpu_s_per_gb": "CPU seconds per GB (less is better)",
    "cpu_s_per_100k": "CPU seconds per 100 000 (less is better)",
    "p50_ms": "p50, ms (less is better)",
    "p99_ms": "p99, ms (less is better)",
    "kib_per_connection": "KiB per connection (less is better)",
    "idle_cpu_ms_per_s": "CPU ms per idle second (less is better)",
    "start_seconds": "seconds to the first answer (less is better)",
    "syscalls": "system calls each (less is better)",
}

COLUMNS = 3
PANEL_WIDTH, PANEL_GAP = 340, 24
LABEL_WIDTH, VALUE_WIDTH = 110, 60
BAR_HEIGHT, BAR_GAP = 16, 5
HEAD_HEIGHT = 44
MARGIN = 24
OWN, PEER, CEILING = "#1f6f54", "#9aa7b5", "#e3e6ea"


@dataclass(frozen=True)
class Panel:
    """The bars of one metric of one row."""

    row: str
    metric: str
    bars: tuple[tuple[str, float | None], ...]  # None: it failed

    def height(self) -> int:
        """How tall it is, its heading included."""
        return HEAD_HEIGHT + len(self.bars) * (BAR_HEIGHT + BAR_GAP)

    def draw(self, left: int, top: int) -> Iterator[str]:
        """The shapes, its upper left corner being at *left*, *top*."""
        yield _text(left, top + 14, self.row, weight="bold")
        yield _text(left, top + 30, TITLES[self.metric], size=11)
        room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
        longest = max(value or 0.0 for _, value in self.bars) or 1.0
        for index, (label, value) in enumerate(self.bars):
            y = top + HEAD_HEIGHT + index * (BAR_HEIGHT + BAR_GAP)
            width = max(1.0, (value or 0.0) / longest * room)
            x = left + LABEL_WIDTH
            yield _text(x - 6, y + 12, label, anchor="end")
            yield (
                f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}"'
                f' fill="{_colour(self.row, label)}"/>'
            )
            yield _text(round(x + width) + 5, y + 12, _amount(value))


def panels(rows: dict[str, Any]) -> Iterator[Panel]:
    """What there is to draw of a run's rows."""
    for name, row in rows.items():
        metrics = next((drawn for end, drawn in DRAWN.items() if name.endswith(end)), ())
        for metric in metrics:
            bars = tuple(
                (label, entry["median"].get(metric))
                for label, entry in row.items()
                if metric in entry["median"] or not entry["median"]
            )
            if any(value is not None for _, value in bars):
                yield Panel(name, metric, bars)


def svg(results: dict[str, Any]) -> str:
    """The whole drawing."""
    drawn = list(panels(results["rows"]))
    title = f"geproxy {results['commit']}, {results['date']}: {results['cores']} x {results['cpu']}"
    shapes = [_text(MARGIN, MARGIN + 6, f"{title}, Linux {results['kernel']}", weight="bold")]
    top = MARGIN + 32
    for begin in range(0, len(drawn), COLUMNS):
        line = drawn[begin : begin + COLUMNS]
        for column, panel in enumerate(line):
            shapes += panel.draw(MARGIN + column * (PANEL_WIDTH + PANEL_GAP), top)
        top += max(panel.height() for panel in line) + PANEL_GAP
    width = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * PANEL_GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}"'
        f' viewBox="0 0 {width} {top}" font-family="sans-serif">'
    )
    ground = f'<rect width="{width}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, ground, *shapes, "</svg>", ""])


def write(results: dict[str, Any], path: Path) -> None:
    """Draw *results* into *path*."""
    path.write_text(svg(results))


def _amount(value: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _colour(row: str, label: str) -> str:
    if label == "geproxy" or row.startswith("scale/"):
        return OWN
    return CEILING if label == "direct" else PEER


def _text(
    x: int, y: int, text: str, *, size: int = 12, weight: str = "normal", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}">{escape(text)}</text>'
    )
