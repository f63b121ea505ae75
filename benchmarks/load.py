"""Compile the load generator, and run its roles."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCES = Path(__file__).parent / "generator"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"]
COMPILE_SECONDS = 120
GRACE_SECONDS = 60  # what a role may take beyond the time for which it begins new work

# Name to number. Where the name has a PART in it, it is a part of what stands before: one for the
# JSON file, not for tables.
Figures = dict[str, float]
PART = "."

NOT_HERE = "cannot be measured here"  # begins the reasons that are the machine's, or our rights'


class LoadError(Exception):
    """A role found that what it was to measure does not work; the text says why."""


def compiler() -> str:
    """The C compiler's path; LoadError where there is none."""
    path = shutil.which("cc")
    if path is None:
        raise LoadError("there is no C compiler: cc is in the Debian package gcc")
    return path


def compile_into(folder: Path) -> Path:
    """Compile the generator; returns the program."""
    program = folder / "load"
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    done = subprocess.run(
        [compiler(), *FLAGS, "-o", str(program), *sources],
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
    )
    if done.returncode != 0:
        raise LoadError(f"the load generator does not compile:\n{done.stderr}")
    return program


def _command(program: Path, role: str, options: dict[str, object]) -> list[str]:
    return [str(program), role, *(f"{name}={value}" for name, value in options.items())]


def _figures(line: str) -> Figures:
    try:
        figures = json.loads(line)
    except ValueError:
        raise LoadError(f"the load generator said {line!r}") from None
    if "error" in figures:
        raise LoadError(figures["error"])
    return dict(figures)


def run(program: Path, role: str, **options: object) -> Figures:
    """Run one role to its end; LoadError with the reason if it could not do its work."""
    seconds = float(str(options.get("seconds", 1)))
    try:
        done = subprocess.run(
            _command(program, role, options),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"not done {GRACE_SECONDS} s after its time") from None
    return _figures(done.stdout)


class Held:
    """A role that goes on until it is left: the targets, or idle connections."""

    def __init__(self, program: Path, role: str, **options: object) -> None:
        self._process = subprocess.Popen(
            _command(program, role, options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.figures: Figures = {}

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        try:
            self.figures = _figures(self._process.stdout.readline())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Beside:
    """A role with an end of its own, running while something else is measured."""

    def __init__(self, program: Path, role: str, **options: object) -> None:
        self._process = subprocess.Popen(
            _command(program, role, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def figures(self) -> Figures:
        """Wait for its end; what it found."""
        try:
            return _figures(self._process.communicate(timeout=GRACE_SECONDS)[0])
        except subprocess.TimeoutExpired:
            raise LoadError(f"not done after {GRACE_SECONDS} s") from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
