"""The load generator, compiled once, and its targets."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import Figures, Held, compile_into
from tests.support.peers import missing


@pytest.fixture(scope="package")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        missing("cc is missing: it is in the Debian package gcc")
    return compile_into(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="package")
def targets(program: Path) -> Iterator[Figures]:
    with Held(program, "targets") as held:
        yield held.figures
