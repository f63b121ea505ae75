"""What every test shares: a heap from which the thousands of tests themselves are left out.

They are hundreds of thousands of objects, and none is ever garbage. The collector would look for
some all the time, and living() walk them again and again.
"""

import gc

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is there stays, and is looked at no more
    gc.enable()
