"""Folders of pictures: found, sampled and labelled alike everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tofe_export.calibration.images import find_images, label_of, list_sha256, sample
from tofe_export.errors import ImageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def test_find_images_is_sorted_recursive_and_by_suffix(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.PNG", "b/10.jpeg", "a.jpg", "c.txt", "b/deep/er/x.webp", ".hidden.jpg", ".cache/y.jpg"
    )
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpg", "b/10.jpeg", "b/2.PNG", "b/deep/er/x.webp"]


def test_find_images_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "data/x/1.jpg", "root/2.jpg")
    (tmp_path / "root/linked").symlink_to(tmp_path / "data")
    (tmp_path / "root/circle").symlink_to(tmp_path / "root")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in find_images(tmp_path / "root")]
    assert found == ["2.jpg", "linked/x/1.jpg"]


def test_find_images_refuses_folders_without_any(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(ImageError, match="found a folder without any") as caught:
        find_images(tmp_path)
    assert caught.value.exit_code == 3
    with pytest.raises(ImageError, match="expected a folder with pictures, found a file"):
        find_images(tmp_path / "notes.txt")
    with pytest.raises(ImageError, match="found nothing"):
        find_images(tmp_path / "none")


def test_sample_is_the_same_everywhere() -> None:
    paths = [Path(str(number)) for number in range(100)]
    assert [int(path.name) for path in sample(paths, 5)] == [15, 44, 46, 87, 99]
    assert sample(paths, 5, seed=1) != sample(paths, 5)
    assert sample(paths, 100) == paths
    assert sample(paths, 1000) == paths
    assert set(sample(paths, 5)) < set(sample(paths, 6))
    with pytest.raises(ValueError, match="at least 1 picture, found 0"):
        sample(paths, 0)


def test_labels_need_a_class_of_the_folders_name() -> None:
    root, classes = Path("/data"), ["cat", "dog", "crane", "crane"]
    assert label_of(root / "dog/1.jpg", root, classes) == 1
    assert label_of(root / "cat/more/1.jpg", root, classes) == 0
    assert label_of(root / "1.jpg", root, classes) is None
    assert label_of(root / "bird/1.jpg", root, classes) is None
    assert label_of(root / "crane/1.jpg", root, classes) is None
    assert label_of(root / "more/cat/1.jpg", root, classes) is None


def test_list_sha256_depends_on_content_and_order_only(tmp_path: Path) -> None:
    a, b = touch(tmp_path, "a.jpg") / "a.jpg", touch(tmp_path, "b.jpg") / "b.jpg"
    before = list_sha256([a, b])
    assert list_sha256([b, a]) != before
    moved = a.rename(tmp_path / "c.jpg")
    assert list_sha256([moved, b]) == before
    moved.write_text("other")
    assert list_sha256([moved, b]) != before
    with pytest.raises(ImageError, match=r"a\.jpg: the picture cannot be read"):
        list_sha256([a])
