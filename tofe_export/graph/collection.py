"""Python's garbage collector waits while packages are imported and graphs are made.

Importing torch and timm makes a million objects that stay, tracing more that live until its end, and the
collector goes through all of them again and again: a quarter of the imports' time and a tenth of an export's,
for a few dozen MiB.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect nothing while the body runs; afterwards it is as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
