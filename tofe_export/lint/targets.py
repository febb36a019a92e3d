"""The TensorRT versions that can be checked, and the names people know them by.

A target is here because its line runs on a device that the tool supports and because something is known of
its parser: 8.6 is JetPack 6.0, 10.3 is JetPack 6.1 and 6.2, 10.13 is JetPack 7.0 and 7.1, 10.16 is JetPack
7.2; 11.4 is the newest line of desktops. A name outside this list is refused with the reason: an answer for a
version of which nothing is known would be a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tofe_export.errors import UsageError

JETPACK = {
    "jetpack-6.0": "8.6",
    "jetpack-6.1": "10.3",
    "jetpack-6.2": "10.3",
    "jetpack-6.2.1": "10.3",
    "jetpack-6.2.2": "10.3",
    "jetpack-7.0": "10.13",
    "jetpack-7.1": "10.13",
    "jetpack-7.2": "10.16",
}
_TOO_OLD = (
    "has TensorRT {tensorrt}, whose parser knows no LayerNormalization, and Python {python}: tofe-export "
    "needs TensorRT 8.6 and Python 3.10. Upgrade the device to JetPack 6"
)
_JETPACK_TOO_OLD = {4: ("8.0 to 8.2", "3.6"), 5: ("8.4 or 8.5", "3.8")}


@dataclass(frozen=True, order=True)
class Target:
    """A TensorRT version, (major, minor)."""

    major: int
    minor: int

    @property
    def version(self) -> str:
        """As manifests write it: "10.3"."""
        return f"{self.major}.{self.minor}"

    @property
    def name(self) -> str:
        """As the command line writes it: "trt-10.3"."""
        return f"trt-{self.version}"

    def within(self, first: str, before: str | None = None) -> bool:
        """Whether first <= this version < before; versions as "10.3"."""
        return _numbers(first) <= self and (before is None or self < _numbers(before))


def _numbers(version: str) -> Target:
    major, minor = version.split(".")
    return Target(int(major), int(minor))


TARGETS = tuple(_numbers(version) for version in ("8.6", "10.3", "10.13", "10.16", "11.4"))


def parse_target(name: str) -> Target:
    """The target of a name: "trt-10.3", "10.3", "jetpack-6.2". Raises UsageError with the reason."""
    text = name.strip().lower()
    version = JETPACK.get(text) or text.removeprefix("trt-")
    for target in TARGETS:
        if target.version == version:
            return target
    raise UsageError(f"no checks for {name!r}: {_reason(text)}. Choose from: {', '.join(names())}")


def names() -> list[str]:
    """Every name that `parse_target` takes, versions first."""
    return [*(target.name for target in TARGETS), *JETPACK]


def _reason(text: str) -> str:
    jetpack = re.fullmatch(r"jetpack-?(\d+)(?:\.\d+)*", text)
    if jetpack and int(jetpack[1]) in _JETPACK_TOO_OLD:
        tensorrt, python = _JETPACK_TOO_OLD[int(jetpack[1])]
        return f"JetPack {jetpack[1]} {_TOO_OLD.format(tensorrt=tensorrt, python=python)}"
    if jetpack:
        return "which TensorRT that JetPack holds is not known here"
    version = re.fullmatch(r"(?:trt-)?(\d+)\.(\d+)(?:\.\d+)*", text)
    if version is None:
        return "expected a TensorRT version such as trt-10.3, or a JetPack such as jetpack-6.2"
    asked = Target(int(version[1]), int(version[2]))
    if asked in TARGETS:
        return f"patch releases are not told apart, write {asked.name}"
    if asked < TARGETS[0]:
        return f"TensorRT {asked.version} is too old, {TARGETS[0].version} is the oldest that is supported"
    around = [max(t for t in TARGETS if t < asked), *sorted(t for t in TARGETS if t > asked)[:1]]
    nearest = " and ".join(target.name for target in around)
    return f"no operator table of TensorRT {asked.version} is at hand; the nearest checked are {nearest}"
