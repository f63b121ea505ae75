"""What every test shares: a heap from which the thousands of tests themselves are left out.

They are hundreds of thousands of objects, and none is ever garbage. The collector would look for
some all the time, and living() walk them again and again.
"""

import gc
from collections.abc import Iterator

import pytest

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is there stays, and is looked at no more
    gc.enable()


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What is freed meanwhile is freed because nothing holds it."""
    gc.disable()
    yield
    gc.enable()
