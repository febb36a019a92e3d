"""The cost model against a profiler that counts what PyTorch really runs.

Our eager forward gives a per-token approximator the frozen rows alone: budget.py calls that account `concat`.
What graphs run is the lean copy of the model.
Full-size models run on torch's meta device, where nothing is computed and everything is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tofe_export.budget import dense_macs, gmacs, macs, macs_executed, printed
from tofe_export.model.backbone import create_backbone
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.lean import lean_copy
from tofe_export.model.tofe import Structure, ToFe

DEIT_S, PAPER = "deit_small_patch16_224", (96, 49, 27)  # (0.49, 0.25, 0.14) of 196


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The selectors switch autocast off, and the meta device has none to switch."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def build(name: str, arguments: dict[str, Any] | None = None, **structure: Any) -> ToFe:
    with torch.device("meta"):
        backbone = create_backbone(name, arguments)
        model = ToFe(backbone, Structure(structure.pop("locations", backbone.locations), **structure))
    return model.eval().requires_grad_(False)


def profiled(model: nn.Module, size: Sequence[int], *arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size, device="meta"), *arguments)
    return int(counter.get_total_flops()) // 2  # an addition and a multiplication each


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DeiT-S": (DEIT_S, {}),
    "DeiT-B": ("deit_base_patch16_224", {}),
    "LV-ViT-S": ("lvvit_s", {}),
    "LV-ViT-M": ("lvvit_m", {}),
    "distilled": ("deit_small_distilled_patch16_224", {}),
    "DeiT-III": ("deit3_base_patch16_224", {}),
    "SigLIP-B": ("vit_base_patch16_siglip_224", {}),
    "SigLIP-B, average": ("vit_base_patch16_siglip_gap_224", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
    "SwiGLU": ("vit_giant_patch14_dinov2", {"img_size": 224, "depth": 4}),
    "map with registers": ("vit_so150m_patch16_reg4_map_256", {}),
    "non-square": (DEIT_S, {"img_size": [128, 320]}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    name, arguments = FAMILIES[family]
    model = build(name, arguments)
    cost, size = model.cost(), model.backbone.image_size
    keep = tuple(round(share * cost.tokens) for share in (0.49, 0.25, 0.14))
    executed = macs_executed(cost, keep, "concat")
    assert profiled(lean_copy(model), size, StaticFreezer(keep)) == pytest.approx(executed, rel=0.01)
    assert executed < 0.62 * dense_macs(cost)
    dense = macs_executed(cost, (), "dense")
    everything = StaticFreezer([cost.tokens] * 3)
    extra = macs_executed(cost, [cost.tokens] * 3, "concat") - dense  # selectors; nothing is frozen
    assert profiled(lean_copy(model), size, everything) == pytest.approx(dense + extra, rel=0.01)
    assert (dense < dense_macs(cost)) == bool(model.backbone.head_rows)
    assert profiled(model.backbone.vit, size) == pytest.approx(dense_macs(cost), rel=0.01)
    if not name.startswith("lvvit"):
        with torch.device("meta"):
            plain = timm.create_model(name, **arguments).eval().requires_grad_(False)
        assert profiled(plain, size) == pytest.approx(dense_macs(cost), rel=0.01)


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("selector", ["mlp", "dynamicvit"])
@pytest.mark.parametrize("approximator", ["bottleneck", "identity", "block"])
def test_every_structure(approximator: str, selector: str, reuse: bool) -> None:
    model = build(DEIT_S, selector=selector, approximator=approximator, reuse=reuse)
    executed = macs_executed(model.cost(), PAPER, "concat")
    # Exact but for the selectors' last layer: one row, z0 - z1, where the paper has two.
    counts = (196, 196, 196) if reuse else (196, *PAPER[:2])
    assert profiled(lean_copy(model), (224, 224), StaticFreezer(PAPER)) == executed - sum(counts) * 384 // 4


def test_depthwise_is_run_and_priced_on_all_tokens() -> None:
    model = build(DEIT_S, approximator="depthwise")
    executed = macs_executed(model.cost(), PAPER, "scatter")
    assert profiled(lean_copy(model), (224, 224), StaticFreezer(PAPER)) == executed - 3 * 196 * 384 // 4


@pytest.mark.parametrize("locations", [(2,), (0, 1, 11), (1, 2, 3, 4, 5)])
def test_other_numbers_of_stages(locations: tuple[int, ...]) -> None:
    model, keep = build(DEIT_S, locations=locations), (90, 70, 50, 30, 10)[: len(locations)]
    executed = macs_executed(model.cost(), keep, "concat")
    assert profiled(lean_copy(model), (224, 224), StaticFreezer(keep)) == pytest.approx(executed, rel=0.001)


def test_all_tokens_need_no_head() -> None:
    model = build("lvvit_s")
    executed = macs_executed(model.cost(), PAPER, "concat", "tokens")
    found = profiled(lean_copy(model, "tokens"), (224, 224), StaticFreezer(PAPER), "tokens")
    assert found == pytest.approx(executed, rel=0.001)
    assert executed == macs_executed(model.cost(), PAPER, "concat") - (1 + PAPER[2]) * 384 * 1000


@pytest.mark.parametrize(
    ("name", "dense"),
    [(DEIT_S, "4.60"), ("deit_base_patch16_224", "17.56"), ("lvvit_s", "6.55"), ("lvvit_m", "12.68")],
)
def test_the_papers_dense_figures(name: str, dense: str) -> None:
    assert printed(gmacs(dense_macs(build(name).cost()))) == dense


def test_the_papers_reduced_figure() -> None:
    total = gmacs(macs(build(DEIT_S).cost(), PAPER))
    assert total == pytest.approx(2.266, abs=0.004)  # 2.266 with fractional counts; 27.44 tokens are 27 here
    assert f"{total:.1f}" == "2.3"
