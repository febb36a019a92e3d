"""The collector waits, and is as before afterwards, whatever happened."""

from __future__ import annotations

import gc

import pytest

from tofe_export.graph.collection import no_collection


def fail() -> None:
    with no_collection():
        raise KeyError


@pytest.mark.parametrize("on", [True, False])
def test_is_as_before(on: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == on
        with pytest.raises(KeyError):
            fail()
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()
