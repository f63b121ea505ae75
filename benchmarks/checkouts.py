"""Two checkouts of geproxy, run by one Python, as contenders of each other."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import PLAIN, ROOT, SEALED, Contender
from benchmarks.load import LoadError

# Which Python, and what of it the hot paths run in.
VERSIONS = f"""
import sys
from importlib import metadata
print(" ".join(sys.version.split()))
for name in {machine.LIBRARIES!r}:
    print(name, metadata.version(name))
"""


@dataclass(frozen=True)
class Checkout:
    """A working tree with bin/geproxy, and a .venv or none."""

    root: Path

    def contender(self, *, sealed: bool) -> Contender:
        """geproxy of this checkout, or a pair of them."""
        usual = SEALED[0] if sealed else PLAIN[0]
        return replace(usual, program=str(self.root / "bin" / "geproxy"))

    def versions(self) -> list[str]:
        """Its Python's build, then the libraries that it finds; LoadError if it finds them not."""
        own = self.root / ".venv" / "bin" / "python3"
        python = str(own) if own.exists() else shutil.which("python3", path=environment()["PATH"])
        found = machine.output(str(python), "-c", VERSIONS, root=self.root).splitlines()
        if not found:
            raise LoadError(f"{self.root}: geproxy's dependencies are not installed for {python}")
        return found

    def describe(self) -> dict[str, object]:
        """What a reader of the figures has to know of it."""
        name, dirty = machine.commit(self.root)
        return {"commit": name, "dirty": dirty, "versions": self.versions()}


THIS = Checkout(ROOT)


def environment() -> dict[str, str]:
    """What all contenders run with: this Python where a checkout has no .venv, and one hash seed.

    With seeds of their own, dictionaries of the same code differ, and its speed by some percent.
    """
    own = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{own}:{os.environ.get('PATH', '')}", "PYTHONHASHSEED": "0"}


def at(path: Path) -> Checkout:
    """The checkout at *path*; LoadError if it is none, or if it would run by another Python."""
    base = Checkout(path.resolve())
    if not os.access(base.root / "bin" / "geproxy", os.X_OK):
        raise LoadError(f"{path} is no checkout of geproxy: it has no bin/geproxy")
    own, other = THIS.versions()[0], base.versions()[0]
    if own != other:
        raise LoadError(f"{path} runs by another Python than this checkout: {other}, not {own}")
    return base
