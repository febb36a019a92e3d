"""TensorRT's lines reach whoever listens; and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tofe_export.trt.explain import KNOWN, SHOWN, explanations, with_lines
from tofe_export.trt.log import Collector, Lines, logger_of

SEEN = (  # lines as TensorRT wrote them, what must be understood
    (
        "[optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any "
        "implementation for node {ForeignNode[a...b]}.)",
        "no kernel fits",
    ),
    (
        "Tactic Device request: 806MB Available: 187MB. Device memory is insufficient to use tactic.",
        "too little free memory",
    ),
    (
        "Skipping tactic 3 due to insuficient memory on requested size of 538 detected for tactic 4.",
        "too little free memory",
    ),
    (
        "1: [stdArchiveReader.cpp::StdArchiveReader::32] Error Code 1: Serialization (Serialization "
        "assertion stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current "
        "Version: 213, Serialized Engine Version: 232)",
        "another TensorRT",
    ),
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version "
        "8.5.2 got 8.6.1, please rebuild.",
        "another TensorRT",
    ),
    ("Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match", "no plan"),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.9 got compute 8.6, "
        "please rebuild.",
        "another kind of GPU",
    ),
    (
        # TensorRT 8.6.0, where no driver is installed at all
        "CUDA initialization failure with error: 35. Please check your CUDA installation:  "
        "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html",
        "there is no NVIDIA driver, or it is older",
    ),
    ("CUDA initialization failure with error: 100", "no usable GPU"),
    ("Unable to load library: libnvinfer_builder_resource.so.8.6.2: cannot open shared object", "is missing"),
    ("No importer registered for op: Unique. Attempting to import as plugin.", "does not know an operator"),
    ("Failed to parse ONNX model from file: x.onnx", "cannot be read"),
    ("IElementWiseLayer: operation SUM has incompatible input types Half and Float", "do not agree"),
    ("No implementation obeys reformatting-free rules, at least 2 reformatting nodes are needed", "be held"),
)


@pytest.mark.parametrize(("line", "meaning"), SEEN)
def test_lines_that_were_seen_are_understood(line: str, meaning: str) -> None:
    found = explanations([line])
    assert len(found) == 1
    assert meaning in found[0]


def test_what_8_6_says_first_without_a_driver_hides_nothing() -> None:
    first = "Unable to determine GPU memory usage"  # a warning before the line that tells the cause
    assert explanations([first]) == []
    assert len(explanations([first, "CUDA initialization failure with error: 35."])) == 1


def test_unknown_lines_get_no_meaning() -> None:
    assert explanations(["something new"]) == []
    assert explanations([]) == []


def test_too_little_memory_is_seen_in_the_warnings_of_a_failed_build() -> None:
    memory, kernel = explanations([SEEN[0][0], SEEN[1][0]])
    assert memory.startswith("the device has too little free memory: close other programs")
    assert kernel.startswith("no kernel fits")


def test_a_message_shows_meaning_and_lines() -> None:
    said = ["CUDA initialization failure with error: 35", *map(str, range(9))]
    text = with_lines("it failed", said, "else")
    first, *rest = text.split("\n")
    assert first.startswith(
        "it failed. there is no NVIDIA driver, or it is older than this TensorRT's CUDA: "
    )
    assert rest[0] == "  TensorRT: CUDA initialization failure with error: 35"
    assert len(rest) == SHOWN + 1
    assert rest[-1] == "  and 4 more lines"
    assert with_lines("it failed", [], "no reason given") == "it failed. no reason given"


def test_every_explanation_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    assert [known.meaning for known in KNOWN if known.meaning not in flat] == []


def test_the_logger_collects_errors_and_warnings(api_module: Callable[[str], Any]) -> None:
    collector = Collector(api_module("8.6"))
    with collector.listening() as lines:
        for severity in ("INTERNAL_ERROR", "ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
            collector.handle.log(f"Severity.{severity}", severity.lower())
    collector.handle.log("Severity.ERROR", "too late")
    assert lines.errors == ["internal_error", "error"]  # the second "error" is a repetition
    assert lines.warnings == ["warning"]
    assert lines.everything == ["internal_error", "error", "warning"]


def test_one_logger_per_module_and_nested_listeners(api_module: Callable[[str], Any]) -> None:
    module = api_module("10.3")
    assert logger_of(module) is logger_of(module)
    with logger_of(module).listening() as outer, logger_of(module).listening() as inner:
        logger_of(module).hear("ERROR", "x")
    assert outer.errors == inner.errors == ["x"]


def test_a_build_that_repeats_itself_does_not_fill_memory() -> None:
    lines = Lines()
    for index in range(3000):
        lines.add("ERROR", str(index))
    assert len(lines.errors) == 1000
