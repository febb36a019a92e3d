"""Data, settings, results and statistics of the experiment, and one run from backbone to report."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accuracy import report, run
from accuracy.arms import ARMS
from accuracy.contender import Reading
from accuracy.results import Job, Record, Results, record_of
from accuracy.settings import FULL, MEDIUM, SMALL, Size
from accuracy.summary import Estimate, cells, difference, over_seeds, verdict
from accuracy.tasks import Arrays, MovedSamples, cifar10, digits, load_task
from PIL import Image

from tofe_export.errors import InputError, UsageError

Make = Callable[..., Record]


@pytest.fixture
def record() -> Make:
    def make(arm: str = "tofe", seed: int = 0, hits: str = "1100", share: float | None = 0.5) -> Record:
        correct = torch.tensor([bit == "1" for bit in hits])
        return record_of(Job(arm, (0.5,), seed), share, Reading("static", 0.006, 0.0059, (8, 4), correct), 1)

    return make


def test_digits_are_split_in_two_without_overlap() -> None:
    train, test = digits(0)
    assert len(train.images) == 898
    assert len(test.images) == 899
    again, other = digits(0)[0], digits(1)[0]
    assert train.images.equal(again.images)
    assert not train.labels.equal(other.labels)
    assert train.images.amin() == -1
    assert train.images.amax() == 1
    rows = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in rows for image in test.images) == 0


def test_moved_samples_repeat_for_a_key_and_keep_the_label() -> None:
    arrays = Arrays(torch.arange(2 * 3 * 16, dtype=torch.float32).reshape(2, 3, 4, 4), torch.tensor([4, 1]))
    samples = MovedSamples(arrays, 0, (3, 16), shift=1, flip=True)
    assert samples[3, 1].image.equal(samples[3, 1].image)
    assert len({samples[epoch, 1].image.numpy().tobytes() for epoch in range(40)}) > 9  # 9 places, 2 sides
    assert samples[3, 1].target == 1
    still = MovedSamples(arrays, 0, (3, 16), shift=0, flip=False)
    assert still[3, 1].image.equal(arrays.images[1])
    assert (samples._padded[0, 0, 0] == -1).all()


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    row = np.zeros(3073, np.uint8)
    row[0], row[1], row[1 + 1024], row[-1] = 7, 255, 51, 102
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(row.tobytes() * 2)
    train, test = cifar10(tmp_path)
    assert train.images.shape == (10, 3, 32, 32)
    assert test.labels.tolist() == [7, 7]
    values = [
        test.images[0, 0, 0, 0],
        test.images[0, 1, 0, 0],
        test.images[0, 2, 31, 31],
        test.images[0, 0, 0, 1],
    ]
    assert [float(value) for value in values] == pytest.approx([1, -0.6, -0.2, -1])


def test_cifar10_is_read_from_folders_of_pictures(tmp_path: Path) -> None:
    for name, value in (("train/cat/1.png", 255), ("train/airplane/0.png", 51), ("test/cat/0.png", 102)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (value, 0, 0)).save(tmp_path / name)
    train, test = cifar10(tmp_path)
    assert train.labels.tolist() == [0, 1]
    assert train.images.shape == (2, 3, 32, 32)
    assert train.images[:, 0, 0, 0].tolist() == pytest.approx([-0.6, 1])
    assert float(test.images[0, 1].amax()) == -1
    Image.new("RGB", (16, 32)).save(tmp_path / "test/cat/0.png")
    with pytest.raises(InputError, match="32 x 32 pixels, found 16 x 32"):
        cifar10(tmp_path)
    (tmp_path / "test/cat/0.png").unlink()
    with pytest.raises(InputError, match="one per class, found none"):
        cifar10(tmp_path)


def test_what_is_not_cifar10_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data_batch_1\.bin"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"123")
    with pytest.raises(InputError, match="records of 3073 bytes, found 3 bytes"):
        cifar10(tmp_path)
    with pytest.raises(UsageError, match="--data"):
        load_task(FULL, 0, (3, 256))


def test_the_fingerprint_changes_with_what_matters() -> None:
    assert SMALL.fingerprint() == replace(SMALL, seeds=(7,), budgets=(0.5,)).fingerprint()
    assert SMALL.fingerprint() != replace(SMALL, epochs=SMALL.epochs + 1).fingerprint()
    json.dumps(SMALL.to_json())


def test_a_size_reaches_another_process() -> None:
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


@pytest.mark.parametrize("size", [SMALL, MEDIUM, FULL])
def test_every_method_has_its_rates(size: Size) -> None:
    for method in size.rates:
        recipe = size.fine_tuning(method, 3)
        assert recipe.seed == 3
        assert recipe.lr == pytest.approx(50 * recipe.min_lr)
    assert set(size.compared) <= set(size.budgets)


def test_the_list_of_runs() -> None:
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    jobs = list(run.all_jobs(SMALL, seeds=[4]))
    assert len(set(jobs)) == len(jobs)
    assert jobs[0] == Job("backbone", (), 4)
    every, together = sum(arm.every_budget for arm in ARMS), sum(arm.together for arm in ARMS)
    others = len(ARMS) - every - together - 1  # dense has no budget
    assert len(jobs) == 2 + every * len(SMALL.budgets) + others * len(SMALL.compared) + together
    assert Job("multi-1", SMALL.budgets, 4) in jobs
    assert list(run.all_jobs(SMALL, ["evit"], [4]))[1:] == [Job("evit", (b,), 4) for b in SMALL.budgets]


def test_results_are_kept_and_found_again(tmp_path: Path, record: Make) -> None:
    results = Results(tmp_path / "r.json", SMALL)
    results.add([record(hits="110010111")])
    found = Results(tmp_path / "r.json", SMALL)
    assert found.records == results.records
    assert found.records[0].hits().tolist() == [bit == "1" for bit in "110010111"]
    assert Job("tofe", (0.5,), 0) in found
    assert Job("tofe", (0.5,), 1) not in found
    with pytest.raises(UsageError, match="other settings"):
        Results(tmp_path / "r.json", replace(SMALL, epochs=SMALL.epochs + 1))


def test_interval_over_seeds() -> None:
    found = over_seeds([0.9, 0.92, 0.97])
    assert found.value == pytest.approx(0.93)
    assert found.half == pytest.approx(4.303 * 0.0360555 / 3**0.5, rel=1e-4)
    assert over_seeds([0.9]).half is None
    assert over_seeds([0.9]).points() == "90.00"
    with pytest.raises(ValueError, match="found 0"):
        over_seeds([])


def test_differences_are_paired(record: Make) -> None:
    records = [record(seed=0, hits="1100"), record(seed=1, hits="1110")]
    others = [record("evit", 0, "1000"), record("evit", 1, "1100"), record("evit", 2, "1111")]
    ours, theirs = cells([*records, *others])
    gap = difference(theirs, ours)
    assert gap is not None
    assert gap.seeds == Estimate(-0.25, 0.0)  # both seeds lose one image of four
    assert gap.images.value == -0.25
    assert (gap.below, gap.count) == (2, 2)
    assert verdict(gap) == "holds (ToFe ahead in 2 of 2 seeds)"
    back = difference(ours, theirs)
    assert back is not None
    assert verdict(back).startswith("does not hold: reversed")
    same = difference(ours, ours)
    assert same is not None
    assert verdict(same).startswith("open: no difference")
    assert difference(cells([record(seed=9)])[0], ours) is None


def test_the_report_takes_its_place_between_the_markers() -> None:
    text = "a\n<!-- accuracy_small -->\nold\n<!-- /accuracy_small -->\nb\n"
    assert report._replaced(text, "accuracy_small", "new") == text.replace("\nold\n", "\n\nnew\n\n")
    with pytest.raises(ValueError, match="markers"):
        report._replaced("a", "accuracy_small", "new")


@pytest.mark.slow
def test_from_backbone_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = dict(SMALL.arguments) | {"embed_dim": 16, "depth": 4, "num_heads": 2}
    size = replace(SMALL, arguments=arguments, dense_epochs=1, epochs=1, batch_size=449)
    size = replace(size, measured=50)
    results = Results(tmp_path / "r.json", size)
    jobs = [Job("backbone", (), 0), Job("tofe", (0.5,), 0), Job("evit", (0.5,), 0)]
    for job in [*jobs, Job("multi-1", size.budgets, 0)]:
        results.add(run.run_job(size, tmp_path, None, job))
    modes = [(r.arm, r.mode, r.share) for r in results.records]
    assert modes[:4] == [
        ("backbone", "static", None),
        ("tofe", "static", 0.5),
        ("tofe", "adaptive", 0.5),
        ("evit", "static", 0.5),
    ]
    assert [r.share for r in results.records[4:]] == [b for b in size.budgets for _ in range(2)]
    monkeypatch.setattr("sys.argv", ["report.py", str(results.path)])
    report.main()
    assert (tmp_path / "accuracy_small.svg").stat().st_size > 1000
