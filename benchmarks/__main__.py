"""Measure geproxy and its installed peers side by side, or two checkouts of geproxy.

Usage: python -m benchmarks [--quick | --streams] [--only PATTERN] [--rounds N]
                            [--seconds S] [--workers N] [--control NAME] [--output FOLDER]
       python -m benchmarks --against CHECKOUT [--minutes M] [--only PATTERN] [--output FOLDER]
       python -m benchmarks --attack [--base CHECKOUT] [--seconds S] [--only PATTERN]
       python -m benchmarks [--against CHECKOUT | --attack] --list
       python -m benchmarks (--show | --markdown) FILE
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks import (
    against,
    attack,
    attack_plan,
    attack_report,
    machine,
    markdown,
    network,
    plot,
    report,
    turns,
    verdict,
)
from benchmarks.load import LoadError
from benchmarks.plan import Plan, Row, chosen, cores, most_connections
from benchmarks.rounds import measure_rows
from benchmarks.running import StartError
from benchmarks.work import ready

RESULTS = Path(__file__).parent / "results"
STREAM_GIBIBYTES = 4.0
ATTACK_SECONDS = 8.0  # of a phase: 160 probes, so that p99 is not the slowest


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = argparse.SUPPRESS
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="a few rows, in under two minutes")
    kind.add_argument("--streams", action="store_true", help="4 GiB each way, each byte compared")
    kind.add_argument(
        "--against", metavar="CHECKOUT", type=Path, help="whether any row is worse than there"
    )
    kind.add_argument("--attack", action="store_true", help="how others fare beside floods")
    parser.add_argument(
        "--base", metavar="CHECKOUT", type=Path, help="of --attack: also there, before this one"
    )
    parser.add_argument(
        "--minutes", metavar="M", type=float, default=10.0, help="of --against, at most: 10"
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="rows with such names")
    parser.add_argument("--rounds", metavar="N", type=int, help="5; 3 if quick, 1 of streams")
    parser.add_argument(
        "--seconds", metavar="S", type=float, help="each: 1.0; 0.5 if quick, 8 of --attack"
    )
    parser.add_argument("--workers", metavar="N", type=int, default=cores(), help="one per core")
    parser.add_argument(
        "--control",
        metavar="NAME",
        default=network.UNPACED,
        help="TCP congestion control: reno, another, or `host` for the host's own; as root",
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--show", metavar="FILE", type=Path, help="the tables of an earlier run")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="README's table of one")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _rows(arguments: argparse.Namespace) -> list[Row]:
    gibibytes = STREAM_GIBIBYTES if arguments.streams else 0
    plan = Plan(arguments.workers, arguments.quick, gibibytes)
    rows = [row for row in plan.rows() if chosen(row, arguments.only)]
    return [row for row in rows if row.quick] if arguments.quick and not arguments.only else rows


def _measure(arguments: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    usual_rounds = 1 if arguments.streams else 3 if arguments.quick else 5
    rounds = arguments.rounds or usual_rounds
    seconds = arguments.seconds or (0.5 if arguments.quick else 1.0)
    results = {**machine.describe(), "rounds": rounds, "seconds": seconds}
    most = most_connections(arguments.workers)
    results |= {"workers": arguments.workers, "most_idle_connections": most}
    results["network"] = network.isolate(arguments.control)
    results["congestion_control"] = network.congestion_control()
    with ready(seconds, most) as bench:
        found = measure_rows(rows, bench, rounds, _say)
    results["rows"] = report.rows(found)
    results["goals"] = report.judged(results["rows"])
    results["missing"] = machine.missing()
    return results


def _name(arguments: argparse.Namespace, results: dict[str, Any]) -> str:
    parts = [results["date"], results["commit"]]
    parts += [name for name in ("quick", "streams") if getattr(arguments, name)]
    paced = arguments.control != network.UNPACED
    parts += [results["congestion_control"]] if paced else []
    parts += ["part"] if arguments.only else []
    parts += ["dirty"] if results["dirty"] else []
    return "-".join(parts)


def main() -> int:
    """Do what the command line says; 1 if geproxy failed a row, is worse, or cannot be measured."""
    arguments = _arguments()
    if arguments.show or arguments.markdown:
        print(_shown(arguments))
        return 0
    if arguments.list:
        print("\n".join(_names(arguments)))
        return 0
    # An end from outside is one by way of every finally: nothing that was started stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.against:
            return _against(arguments)
        if arguments.attack:
            return _attack(arguments)
        return _side_by_side(arguments)
    except (LoadError, StartError) as error:
        _say(f"benchmarks: {error}")
        return 1


def _names(arguments: argparse.Namespace) -> list[str]:
    if arguments.attack:
        return [row.name for row in attack_plan.chosen(arguments.only)]
    if arguments.against:
        return [row.name for row in turns.chosen(arguments.only)]
    return [row.name for row in _rows(arguments)]


def _shown(arguments: argparse.Namespace) -> str:
    results = report.read(arguments.show or arguments.markdown)
    if "attack" in results:
        return attack_report.text(results)
    if "checkouts" in results:
        return verdict.text(results) if arguments.show else verdict.markdown(results)
    return report.text(results) if arguments.show else markdown.table(results)


def _against(arguments: argparse.Namespace) -> int:
    rows = turns.chosen(arguments.only)
    results = against.measure(arguments.against, rows, arguments.minutes * 60, _say)
    path = arguments.output / f"{against.name(results)}.json"
    report.write(results, path)
    print(f"\n{verdict.text(results)}\n\nwritten: {path}")
    return int(verdict.worse(results["rows"]))


def _attack(arguments: argparse.Namespace) -> int:
    rows = attack_plan.chosen(arguments.only)
    results = attack.measure(arguments.base, rows, arguments.seconds or ATTACK_SECONDS, _say)
    path = arguments.output / f"{attack.name(results)}.json"
    report.write(results, path)
    print(f"\n{attack_report.text(results)}\n\nwritten: {path}")
    return int(attack_report.failed(results))


def _side_by_side(arguments: argparse.Namespace) -> int:
    results = _measure(arguments, _rows(arguments))
    path = arguments.output / f"{_name(arguments, results)}.json"
    report.write(results, path)
    plot.write(results, path.with_suffix(".svg"))
    print(f"\n{report.text(results)}\n\nwritten: {path} and {path.with_suffix('.svg').name}")
    return int(report.failed(results["rows"]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
