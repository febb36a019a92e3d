"""Reading a bundle: the directory that holds variants, shared weights, reference data and `manifest.json`.

    BUNDLE/manifest.json                     written last: a directory without it is not a bundle
    BUNDLE/reference.npz                     golden inputs and PyTorch's answers
    BUNDLE/variants/NAME.onnx                the product graph
    BUNDLE/variants/NAME.probe.onnx          the same graph with its selections visible
    BUNDLE/variants/weights-<sha256>.bin     shared by all of them
    BUNDLE/engines/                          made on the device, not in the manifest

A bundle is copied between machines and may come from a stranger, so no path in it leaves it and every file is
compared with its hash before it is used. This module never writes; `bundle_writer` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tofe_export.budget import printed
from tofe_export.errors import BundleError, VariantError
from tofe_export.files import sha256_file
from tofe_export.manifest import Manifest, Variant
from tofe_export.reference import Reference

DEFAULT_PATH = "tofe_bundle"
MANIFEST = "manifest.json"
_MAKE = "Make one with: tofe-export onnx --ckpt FILE --budget 2.0"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest."""

    path: Path
    manifest: Manifest
    _proven: dict[str, tuple[int, int, int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str = DEFAULT_PATH) -> Bundle:
        """Read the manifest. Raises BundleError: not there, not a bundle, damaged, or of a newer schema."""
        folder = Path(path)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(f"{folder}: expected a bundle, found {_what_is(folder)}. {_MAKE}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{folder / MANIFEST} cannot be read: {error}. Make it readable, or copy the bundle again"
            ) from error
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BundleError(
                f"{folder / MANIFEST}: expected JSON, found a truncated or damaged file ({error}). "
                "Copy the bundle again or export again"
            ) from error
        try:
            bundle = cls(folder, Manifest.from_json(data))
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error
        for relative in bundle.manifest.files():
            bundle.file(relative)
        return bundle

    def file(self, relative: str) -> Path:
        """The path of a file in the bundle, which need not exist. Raises BundleError if it is outside."""
        inside = inside_path(self.path, relative)
        if inside is None:
            raise BundleError(
                f"{self.path}: expected paths inside the bundle, found {relative!r}, which leads out of it. "
                "Do not use this bundle unless you know where it comes from"
            )
        return inside

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises VariantError that lists the names."""
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        raise VariantError(f"{self.path} holds no variant {name!r}. Choose from: {self._names()}")

    def default_variant(self) -> Variant:
        """The first variant with token reduction, else the first. Raises VariantError in an empty bundle."""
        variants = self.manifest.variants
        if not variants:
            raise VariantError(f"{self.path} holds no variants. {_MAKE}")
        return next((variant for variant in variants if not variant.dense), variants[0])

    def select(
        self,
        names: Collection[str] = (),
        budgets: Collection[float] = (),
        lowerings: Collection[str] = (),
        precisions: Collection[str] = (),
        batches: Collection[int | str] = (),
    ) -> list[Variant]:
        """The variants that meet every filter given, in manifest order; an empty filter admits all.

        Budgets are compared as printed; dense variants have none. Raises VariantError when a
        wanted value fits no variant, or no variant meets all filters together.
        """
        chosen = list(self.manifest.variants)
        chosen = self._narrow(chosen, "variant", names, lambda variant: variant.name)
        chosen = self._narrow(chosen, "budget", [printed(b) for b in budgets], _printed_budget)
        chosen = self._narrow(chosen, "lowering", lowerings, lambda variant: variant.lowering)
        chosen = self._narrow(chosen, "precision", precisions, lambda variant: variant.precision)
        return self._narrow(chosen, "batch", [str(b) for b in batches], lambda v: str(v.batch))

    def check(self, variants: Iterable[Variant], reference: bool = True) -> None:
        """Prove that every file these variants need is there and has its hash; BundleError names it if not.

        These are graphs, probes, weights and, unless `reference` is False, the reference data. A file that
        was proven and has not changed since is not read again.
        """
        hashes = self.manifest.files()
        needed = {self.manifest.reference.file} if reference else set()
        for variant in variants:
            needed |= {variant.file} if variant.probe is None else {variant.file, variant.probe.file}
            needed |= set(variant.weights) or {weights.file for weights in self.manifest.weights}
        for relative in sorted(needed):
            self.check_file(relative, hashes[relative])

    def reference(self) -> Reference:
        """Load the reference data. Raises BundleError when it is damaged or of another number of images."""
        info = self.manifest.reference
        reference = Reference.load(self.file(info.file))
        if len(reference) != info.count:
            where = self.file(info.file)
            raise BundleError(f"{where}: expected {info.count} images, found {len(reference)}: export again")
        return reference

    def check_file(self, relative: str, expected: str) -> None:
        """Prove that one file is there and has this hash. Raises BundleError."""
        path = self.file(relative)
        try:
            facts = path.stat()
            state = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if self._proven.get(relative) == state:
                return
            found = f"sha256 {sha256_file(path)}"
        except FileNotFoundError:
            found = "no such file"
        except OSError as error:
            found = error.strerror or str(error)
        if found != f"sha256 {expected}":
            raise BundleError(
                f"{path}: expected sha256 {expected}, found {found}. The bundle is incomplete or was "
                "changed: copy it again or export again"
            )
        self._proven[relative] = state

    def _narrow(
        self, variants: list[Variant], what: str, wanted: Collection[str], of: Callable[[Variant], str]
    ) -> list[Variant]:
        if not wanted:
            return variants
        there = {of(variant) for variant in variants}
        if missing := [value for value in wanted if value not in there]:
            raise VariantError(
                f"{self.path} holds no variant with {what} {', '.join(missing)} (and the other filters). "
                f"Choose from: {self._names()}"
            )
        return [variant for variant in variants if of(variant) in wanted]

    def _names(self) -> str:
        return ", ".join(variant.name for variant in self.manifest.variants) or "none, it is empty"


def inside_path(folder: Path, relative: str) -> Path | None:
    """`folder / relative` if that is below `folder`, links followed; else None."""
    parts = PurePosixPath(relative)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        return None
    path = folder / parts
    real = Path(os.path.realpath(path))  # Path.resolve raises on a circle of links in Python 3.10-3.12
    return path if real.is_relative_to(os.path.realpath(folder)) else None


def _what_is(path: Path) -> str:
    if path.is_dir():
        return "a folder without manifest.json"
    return "a file" if path.exists() else "nothing"


def _printed_budget(variant: Variant) -> str:
    return "" if variant.budget_gmacs is None else printed(variant.budget_gmacs)
