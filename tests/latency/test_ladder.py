"""A ladder of a tiny model: real graphs, each of one keep count, that ONNX Runtime and lint take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError, WriteError
from tofe_export.latency.ladder import heads_of, make_ladder
from tofe_export.latency.ladder_plan import Ladder, plan
from tofe_export.latency.rungs import LADDER, is_ladder, rungs_of
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import ToFe
from tofe_export.runtime.session import Session
from tofe_export.verify.run import verify_bundle

TINY = {"img_size": [8, 8], "patch_size": 2, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
COUNTS = (1, 5, 16)
BATCHES = (2,)


@pytest.fixture(scope="module", autouse=True)
def _quiet_torch() -> Iterator[None]:
    """Torch keeps thousands of records of a trace; they are not pytest's."""
    logger = logging.getLogger("torch.__trace")
    logger.propagate = False
    yield
    logger.propagate = True


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return build_checkpoint(
        "vit_tiny_patch16_224",
        None,
        selector="mlp",
        approximator="bottleneck",
        reuse=True,
        locations=(1, 2),
        arguments=TINY,
    )


@pytest.fixture(scope="module")
def made(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    ladder = Ladder(COUNTS, BATCHES, lowerings=("scatter", "concat"), precisions=("fp32", "fp16"))
    return make_ladder(checkpoint, ladder, tmp_path_factory.mktemp("made") / "ladder")


def test_it_is_a_bundle_of_rungs(made: Bundle) -> None:
    bundle = Bundle.open(made.path)
    bundle.check(bundle.manifest.variants)
    assert is_ladder(bundle)
    groups = rungs_of(bundle, bundle.manifest.variants)
    assert len(groups) == 4  # lowerings x precisions
    for rungs in groups:
        assert [variant.keep for variant in rungs.variants] == [(k, k) for k in COUNTS]
        assert rungs.dense.lowering == "dense"
        assert rungs.heads == 2
    assert not bundle.manifest.model.trained


def test_more_tokens_execute_more(made: Bundle) -> None:
    for rungs in rungs_of(made, made.manifest.variants):
        executed = [variant.gmacs_executed for variant in rungs.variants]
        assert executed == sorted(set(executed))


@pytest.mark.parametrize(
    "name", ["k1-concat-fp32-b2", "k16-concat-fp32-b2", "k5-scatter-fp32-b2", "dense-fp32-b2"]
)
def test_its_graphs_run(made: Bundle, name: str) -> None:
    images = made.reference().images[:2]
    with Session.open(made, name) as session:
        logits = session.infer({"images": images})["logits"]
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


def test_scatter_and_concat_agree(made: Bundle) -> None:
    images = made.reference().images[:2]
    found = []
    for lowering in ("scatter", "concat"):
        with Session.open(made, f"k5-{lowering}-fp32-b2") as session:
            found.append(session.infer({"images": images})["logits"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_typed_rungs_name_what_an_older_tensorrt_needs(made: Bundle) -> None:
    typed = made.variant("k5-scatter-fp16-b2")
    assert typed.extra["twin"] == "k5-scatter-fp32-b2"
    assert typed.extra["float32_nodes"]
    assert made.variant(typed.extra["twin"]).extra["hold_float32"]
    assert typed.extra[LADDER] == {"heads": 2}


def test_it_cannot_pass_for_a_verified_model(made: Bundle) -> None:
    with pytest.raises(BundleError, match="a ladder is measured, not verified"):
        verify_bundle(made, [made.variant("dense-fp32-b2")])


def test_another_ladder_is_replaced(checkpoint: Checkpoint, made: Bundle, tmp_path: Path) -> None:
    shutil.copytree(made.path, tmp_path / "ladder")
    replaced = make_ladder(checkpoint, Ladder((2, 16)), tmp_path / "ladder")
    assert [v.name for v in replaced.manifest.variants][1:] == ["k2-scatter-fp32-b1", "k16-scatter-fp32-b1"]


def test_anything_else_is_not_replaced(checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a bundle that is no ladder"):
        make_ladder(checkpoint, Ladder(COUNTS), bundle.path)
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(WriteError, match="found a folder with other content"):
        make_ladder(checkpoint, Ladder(COUNTS), tmp_path / "mine")


@pytest.mark.parametrize("counts", [(5,), (0, 5), (5, 17), (5, 5)])
def test_counts_that_make_no_ladder(checkpoint: Checkpoint, counts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"--tokens: expected two or more different counts from 1 to 16"):
        plan(checkpoint.model, Ladder(counts))


def test_precisions_that_need_pictures_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="--precision int8: a ladder can have fp32, fp16, bf16"):
        plan(checkpoint.model, Ladder(COUNTS, precisions=("int8",)))


def test_what_an_export_refuses_a_ladder_refuses(checkpoint: Checkpoint) -> None:
    structure = replace(checkpoint.model.structure, approximator="depthwise")
    with pytest.raises(UsageError, match="concat"):
        plan(ToFe(checkpoint.model.backbone, structure), Ladder(COUNTS, lowerings=("concat",)))


def test_default_counts(checkpoint: Checkpoint) -> None:
    planned = plan(checkpoint.model, Ladder())
    assert [variant.keep for variant in planned] == [
        (),
        *((k, k) for k in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)),
    ]


def test_heads(checkpoint: Checkpoint) -> None:
    assert heads_of(checkpoint.model) == 2
