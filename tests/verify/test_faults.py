"""One fault of each kind, planted in a real exported bundle, is found and named; the bundle itself passes.

The planter lives in `benchmarks/`, which is a folder of scripts and not a package: they find each other on
`sys.path`, as when one of them is run. So the fixture puts the folder there and imports them by name, instead
of keeping a second planter here or shipping this one in the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = (
    "gather off by one",
    "stages swapped",
    "scores negated",
    "stale weight",
    "channel order",
    "crop",
    "mean and std",
    "saturation",
    "stale reference",
    "K off by one",
)

Faults = Any  # benchmarks/faults.py, imported by name
Base = Any  # its class


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("faults")


@pytest.fixture(scope="module")
def base(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny DeiT: scatter at batch 1, its probe and the dense variant."""
    folder = tmp_path_factory.mktemp("faults") / "bundle"
    structure = faults.BASES["DeiT"]
    return faults.make_base("DeiT", structure, 0, folder, budgets=1, lowerings=("scatter",), batches=(1,))


def test_every_kind_is_tried_here(faults: Faults) -> None:
    assert tuple(faults.KINDS) == KINDS


def test_the_undamaged_bundle_passes(faults: Faults, base: Base) -> None:
    clean = faults.run_clean(base)
    assert clean["runs"] == 2
    assert clean["false_alarms"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_found_and_named(faults: Faults, base: Base, kind: str) -> None:
    trial = faults.trial(kind, base, seed=0)
    assert trial.found, trial.fault
    assert trial.named, f"{trial.fault}\n{trial.report.text()}"
