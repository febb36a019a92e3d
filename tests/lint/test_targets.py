"""Names of targets: versions, JetPacks, and why others are refused."""

from __future__ import annotations

import pytest

from tofe_export.errors import UsageError
from tofe_export.graph.request import TENSORRT_TARGETS
from tofe_export.lint.targets import TARGETS, names, parse_target


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("trt-8.6", "8.6"),
        ("10.13", "10.13"),
        ("TRT-11.4", "11.4"),
        ("jetpack-6.0", "8.6"),
        ("jetpack-6.1", "10.3"),
        ("jetpack-6.2.1", "10.3"),
        ("jetpack-7.0", "10.13"),
        ("jetpack-7.2", "10.16"),
    ],
)
def test_names_of_a_version(name: str, version: str) -> None:
    assert parse_target(name).version == version


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jetpack-5", "JetPack 5 has TensorRT 8.4 or 8.5.*Python 3.8.*Upgrade"),
        ("jetpack-5.1.2", "JetPack 5"),
        ("jetpack-4.6", "8.0 to 8.2"),
        ("jetpack-9", "not known"),
        ("trt-8.5", "8.5 is too old, 8.6 is the oldest"),
        ("trt-10.9", "nearest checked are trt-10.3 and trt-10.13"),
        ("trt-12.0", "nearest checked are trt-11.4"),
        ("trt-10.3.1", "write trt-10.3"),
        ("orin", "expected a TensorRT version"),
    ],
)
def test_other_names_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_target(name)
    assert "Choose from: trt-8.6" in str(caught.value)


def test_every_target_of_a_variant_can_be_checked() -> None:
    assert tuple(target.version for target in TARGETS) == TENSORRT_TARGETS


def test_every_listed_name_is_taken() -> None:
    assert {parse_target(name) for name in names()} == set(TARGETS)


def test_versions_are_compared_as_numbers() -> None:
    target = parse_target("trt-10.13")
    assert target.within("10.3")
    assert target.within("10.3", "10.14")
    assert not target.within("10.3", "10.13")
    assert not target.within("11.0")
