"""Folders of pictures: found, sampled and labelled alike everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tofe_export.calibration.images import find_images, label_of, list_sha256, sample, select
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


def test_a_selection_is_the_sample_and_says_what_it_was_taken_from(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number % 3}/{number:03}.jpg" for number in range(40)))
    chosen = select(tmp_path, 10, seed=3)
    assert [tmp_path / name for name in chosen.names] == sample(find_images(tmp_path), 10, seed=3)
    assert list(chosen.paths()) == [tmp_path / name for name in chosen.names]
    assert (chosen.found, chosen.seed, len(chosen.names)) == (40, 3, 10)
    assert chosen.sha256() == list_sha256(list(chosen.paths()))
    assert select(tmp_path, 10).names != chosen.names


def test_without_a_number_at_most_512_are_taken(tmp_path: Path) -> None:
    touch(tmp_path / "few", "a.jpg", "b.jpg")
    assert select(tmp_path / "few").names == ("a.jpg", "b.jpg")
    touch(tmp_path / "many", *(f"{number}.jpg" for number in range(600)))
    many = select(tmp_path / "many")
    assert (len(many.names), many.found) == (512, 600)


def test_fewer_pictures_than_asked_for_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(ImageError, match=r"at least 3 pictures, found 2.*--num-images 2"):
        select(tmp_path, 3)
    assert select(tmp_path, 2).found == 2


def test_parts_of_a_selection_share_nothing_and_leave_nothing_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(7)))
    whole = select(tmp_path)
    even, odd = whole.part(0, 2), whole.part(1, 2)
    assert sorted(even.names + odd.names) == list(whole.names)
    assert (len(even.names), len(odd.names), odd.found) == (4, 3, 7)


def test_a_selections_hash_leaves_out_what_does_not_open(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    alone = select(tmp_path).sha256()
    (tmp_path / "c.jpg").symlink_to(tmp_path / "gone")
    assert select(tmp_path).names == ("a.jpg", "b.jpg", "c.jpg")
    assert select(tmp_path).sha256() == alone
    (tmp_path / "b.jpg").write_text("other")
    assert select(tmp_path).sha256() != alone
