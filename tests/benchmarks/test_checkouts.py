"""Checkouts are compared where one Python runs both of them."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks import checkouts
from benchmarks.checkouts import THIS, Checkout
from benchmarks.load import LoadError

pytestmark = pytest.mark.slow


def a_checkout(root: Path, python: str = "") -> Path:
    """A folder with a bin/geproxy; and with a .venv whose python3 is such a script."""
    (root / "bin").mkdir()
    (root / "bin" / "geproxy").touch(0o755)
    if python:
        (root / ".venv" / "bin").mkdir(parents=True)
        (root / ".venv" / "bin" / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (root / ".venv" / "bin" / "python3").chmod(0o755)
    return root


def test_a_contender_is_the_program_of_its_checkout() -> None:
    checkout = Checkout(Path("/a/checkout"))
    assert checkout.contender(sealed=False).program == "/a/checkout/bin/geproxy"
    assert checkout.contender(sealed=True).program == "/a/checkout/bin/geproxy"
    assert checkout.contender(sealed=True).prepare != checkout.contender(sealed=False).prepare


def test_without_a_venv_it_runs_by_our_python(tmp_path: Path) -> None:
    assert checkouts.at(a_checkout(tmp_path)).versions() == THIS.versions()


def test_our_python_is_the_first_on_its_path_and_hashes_with_one_seed() -> None:
    environment = checkouts.environment()
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["PYTHONHASHSEED"] == "0"


def test_another_python_is_refused(tmp_path: Path) -> None:
    root = a_checkout(tmp_path, "echo 2.7.18; echo gevent 1.0")
    with pytest.raises(LoadError, match=r"another Python than this checkout: 2\.7\.18, not 3\."):
        checkouts.at(root)


def test_a_venv_without_the_dependencies_is_refused(tmp_path: Path) -> None:
    root = a_checkout(tmp_path, "exit 1")
    with pytest.raises(LoadError, match="dependencies are not installed"):
        checkouts.at(root)


def test_what_has_no_program_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has no bin/geproxy"):
        checkouts.at(tmp_path)
