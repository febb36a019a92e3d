"""Reference data: round trips, misfits, and files that must not run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tofe_export.errors import BundleError
from tofe_export.files import sha256_file
from tofe_export.reference import Entry, Reference


def test_round_trip(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "r.npz")
    loaded = Reference.load(tmp_path / "r.npz")
    assert loaded.keys == ("dense", "keep-2")
    assert len(loaded) == 2
    np.testing.assert_array_equal(loaded.images, reference.images)
    for ours, theirs in zip(loaded.sources, reference.sources, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.output("keep-2"), reference.output("keep-2"))
    np.testing.assert_array_equal(loaded.scores("keep-2"), reference.scores("keep-2"))
    np.testing.assert_array_equal(loaded.kept("keep-2"), reference.kept("keep-2"))
    assert loaded.images_sha256() == reference.images_sha256()


def test_same_content_gives_the_same_bytes(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "a.npz")
    reference.save(tmp_path / "b.npz")
    assert sha256_file(tmp_path / "a.npz") == sha256_file(tmp_path / "b.npz")


def test_keys_may_hold_dots(reference: Reference, tmp_path: Path) -> None:
    reference.with_entry("2.00g.x", reference.output("dense")).save(tmp_path / "r.npz")
    assert "2.00g.x" in Reference.load(tmp_path / "r.npz").keys


def test_with_entry_leaves_the_original(reference: Reference) -> None:
    more = reference.with_entry("new", reference.output("dense"))
    assert more.keys == ("dense", "keep-2", "new")
    assert reference.keys == ("dense", "keep-2")


def test_the_images_hash_sees_pixels_sources_and_nothing_else(reference: Reference) -> None:
    images = reference.images.copy()
    images[1, 2, 3, 4] += 1
    sources = [reference.sources[0].copy(), reference.sources[1]]
    sources[0][0, 0, 0] ^= 1
    same = reference.images_sha256()
    assert replace(reference, images=images).images_sha256() != same
    assert replace(reference, sources=sources).images_sha256() != same
    assert reference.with_entry("new", reference.output("dense")).images_sha256() == same


def test_unknown_keys_and_dense_scores(reference: Reference) -> None:
    with pytest.raises(BundleError, match="holds no 'keep-3', only dense, keep-2"):
        reference.output("keep-3")
    with pytest.raises(BundleError, match="it is a dense model's"):
        reference.scores("dense")
    with pytest.raises(BundleError, match="it is a dense model's"):
        reference.kept("dense")


Change = Callable[[Reference], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, images=r.images.astype(np.float64)), "images: expected float32"),
        (lambda r: replace(r, images=r.images[:, :2]), "expected 3 channels"),
        (lambda r: replace(r, images=r.images[0]), r"expected float32 \(\*, \*, \*, \*\)"),
        (lambda r: replace(r, sources=r.sources[:1]), "expected 2 source images, found 1"),
        (lambda r: replace(r, sources=[r.sources[0], r.sources[1][..., :1]]), "source_0001: expected"),
        (lambda r: r.with_entry("k", r.output("dense")[:1]), r"k.output: expected float32 \(2, ...\)"),
        (lambda r: r.with_entry("k", r.output("dense")[:, 0]), r"found float32 \(2,\)"),
        (lambda r: r.with_entry("k", r.output("dense"), r.scores("keep-2")), "only one of them"),
        (
            lambda r: r.with_entry("k", r.output("dense"), r.scores("keep-2"), r.kept("keep-2")[:, :, :2]),
            r"k.kept: expected bool \(2, 1, 4\)",
        ),
    ],
)
def test_arrays_that_do_not_fit(reference: Reference, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(reference)


def test_an_empty_scores_entry_is_dense() -> None:
    assert Entry(np.zeros((1, 2), np.float32)).scores is None


class Explosive:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import tofe_export; tofe_export.exploded = True",)


def npz(path: Path, **members: object) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(value), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def never_exploded() -> bool:
    import tofe_export

    return not hasattr(tofe_export, "exploded")


def test_pickled_members_are_refused(tmp_path: Path, reference: Reference) -> None:
    npz(tmp_path / "r.npz", images=np.array([Explosive()], dtype=object))
    with pytest.raises(BundleError, match="Object arrays cannot be loaded"):
        Reference.load(tmp_path / "r.npz")
    assert never_exploded()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(BundleError, match="not an npz archive"):
        Reference.load(tmp_path / "r.npz")
    assert never_exploded()


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("images", pickle.dumps(Explosive()))
    with pytest.raises(BundleError):
        Reference.load(tmp_path / "r.npz")
    assert never_exploded()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, reference: Reference, share: float) -> None:
    path = tmp_path / "r.npz"
    reference.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match="found a damaged file") as caught:
        Reference.load(path)
    assert caught.value.exit_code == 4


def test_a_flipped_bit_is_refused(tmp_path: Path, reference: Reference) -> None:
    path = tmp_path / "r.npz"
    reference.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="found a damaged file"):
        Reference.load(path)


def test_missing_foreign_and_incomplete_files(tmp_path: Path, reference: Reference) -> None:
    with pytest.raises(BundleError, match="no such file"):
        Reference.load(tmp_path / "none.npz")
    npz(tmp_path / "a.npz", other=[1])
    with pytest.raises(BundleError, match="images"):
        Reference.load(tmp_path / "a.npz")
    npz(tmp_path / "b.npz", images=reference.images)
    with pytest.raises(BundleError, match="source_0000"):
        Reference.load(tmp_path / "b.npz")
    npz(tmp_path / "c.npz", images=reference.images[:0], stray=[1])
    with pytest.raises(BundleError, match="unknown member 'stray'"):
        Reference.load(tmp_path / "c.npz")
    npz(tmp_path / "d.npz", images=reference.images[:0], **{"k.scores": [1.0]})
    with pytest.raises(BundleError, match="k has no output"):
        Reference.load(tmp_path / "d.npz")
    npz(tmp_path / "e.npz", images=np.float32(1.0))
    with pytest.raises(BundleError):
        Reference.load(tmp_path / "e.npz")
