"""Writing a bundle so that a reader sees the old one or the new one, never a mixture.

A bundle is many files that must fit together, so replacing them one by one is not an option. The new bundle
is built in a hidden folder beside the old one, and the two folders change places in one system call (Linux
`renameat2` with RENAME_EXCHANGE; elsewhere two renames, undone if the second fails). Extending costs no
copies: the files of the old bundle, engines included, are hard-linked first. What a file's two names share
must never be written to, so `path` removes a link before it hands its name out.

    with BundleWriter(path, base) as writer:
        export_graph(writer.path("variants/2.00g-scatter-fp32-b1.onnx"))
        writer.commit(manifest)

Leaving without `commit`, by an error or by Ctrl-C, removes the hidden folder and leaves the old bundle as it
was. Staging folders of processes that were killed are removed by the next writer.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType

from tofe_export import directories
from tofe_export.bundle import MANIFEST, Bundle, inside_path
from tofe_export.errors import WriteError
from tofe_export.files import write_atomic, writing
from tofe_export.manifest import Manifest

ENGINES = "engines"
_OURS = {MANIFEST, "reference.npz", "variants", ENGINES, "calibration"}
_GENERATED = ("variants/*.onnx", "variants/weights-*.bin")


class BundleWriter:
    """Build a bundle at `path`, from nothing or from the files of `base`.

    Entering raises WriteError when the folder cannot be written to or `path` is something that is not ours: a
    file, or a folder with content that is not a bundle.
    """

    def __init__(self, path: Path | str, base: Bundle | None = None) -> None:
        self.shown = Path(path)
        """The bundle, as the user named it."""
        self._target = Path(os.path.realpath(path))
        self._base = base
        self._staging = self._target.with_name(f".{self._target.name}.staging-{os.getpid()}")
        self._before: bytes | None = None

    def __enter__(self) -> BundleWriter:
        with writing(self.shown):
            self._refuse_foreign()
            directories.clean(self._target)
            self._before = _manifest_bytes(self._target)
            try:
                self._staging.mkdir()
                if self._base is not None:
                    directories.link_tree(self._base.path, self._staging)
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()
        if isinstance(error, OSError):  # a graph or weights file that could not be written
            with writing(self.shown):
                raise error
        if isinstance(error, WriteError):  # people know the bundle, not the hidden folder it is built in
            raise WriteError(str(error).replace(str(self._staging), str(self.shown))) from error

    def path(self, relative: str) -> Path:
        """Where to write a file of the new bundle; a file of the base that has this name is removed.

        Raises ValueError for a path outside the bundle and for the manifest, which `commit` writes.
        """
        path = self._inside(relative)
        if path == self._staging / MANIFEST:
            raise ValueError("the manifest is written by commit")
        with writing(self.shown):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        return path

    def existing(self, relative: str) -> Path | None:
        """A file of the new bundle to read, be it linked or new; None if there is none."""
        path = self._inside(relative)
        return path if path.is_file() else None

    def commit(self, manifest: Manifest) -> Bundle:
        """Write the manifest, flush everything to the disk and put the new bundle in the old one's place.

        Graphs and weights that the manifest does not name are left out. Raises WriteError when the disk
        refuses or somebody else changed the bundle in the meantime; ValueError when a file of the manifest is
        missing.
        """
        if missing := [name for name in manifest.files() if self.existing(name) is None]:
            raise ValueError(f"the manifest names files that were not written: {', '.join(missing)}")
        with writing(self.shown):
            self._prune(manifest)
            text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
            # a folder's name need not be valid Unicode: what is not becomes JSON's own \udcXX
            write_atomic(self._staging / MANIFEST, text.encode("utf-8", "backslashreplace") + b"\n")
            directories.sync_tree(self._staging)
            self._link_new_engines()
            self._refuse_changed()
            directories.replace(self._target, self._staging)
        self._discard()
        return Bundle(self.shown, manifest)

    def _inside(self, relative: str) -> Path:
        path = inside_path(self._staging, relative)
        if path is None:
            raise ValueError(f"expected a path inside the bundle, found {relative!r}")
        return path

    def _prune(self, manifest: Manifest) -> None:
        named = {self._staging / name for name in manifest.files()}
        for pattern in _GENERATED:
            for path in self._staging.glob(pattern):
                if path not in named:
                    path.unlink()

    def _link_new_engines(self) -> None:
        """Keep the engines that were built in the old bundle while this one was made."""
        engines = self._target / ENGINES
        if self._base is not None and engines.is_dir():
            (self._staging / ENGINES).mkdir(exist_ok=True)
            directories.link_tree(engines, self._staging / ENGINES)

    def _refuse_foreign(self) -> None:
        if found := self._foreign():
            raise WriteError(
                f"{self.shown}: expected a bundle, an empty folder or nothing to write to, found {found}. "
                "Nothing was changed: choose another --out, or move that away yourself"
            )

    def _foreign(self) -> str:
        """What is at the target that replacing the bundle would destroy and that is not ours; else empty."""
        target = self._target
        if not target.exists():
            return ""
        if not target.is_dir():
            return "a file"
        names = {path.name for path in target.iterdir()}
        if not names:
            return ""
        if not _is_ours(target / MANIFEST):
            return "a folder with other content"
        extends = self._base is not None and os.path.realpath(self._base.path) == str(target)
        return "" if extends else ", ".join(sorted(names - _OURS))

    def _refuse_changed(self) -> None:
        if _manifest_bytes(self._target) != self._before:
            raise WriteError(
                f"{self.shown}: another process changed the bundle while this one was working on it. "
                "Nothing was changed: run the command again"
            )

    def _discard(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)


def _is_ours(manifest: Path) -> bool:
    """Whether this is a bundle's manifest, of any schema: other tools have files of that name, too."""
    try:
        return bool(json.loads(manifest.read_bytes())["tool"]["name"] == "tofe-export")
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _manifest_bytes(bundle: Path) -> bytes | None:
    path = bundle / MANIFEST
    return path.read_bytes() if path.is_file() else None
