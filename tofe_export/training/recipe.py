"""How a ToFe model is trained: every number, with the paper's value as its default.

What the paper leaves open is settled in the table of `docs/training.md`; each such choice is a field here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from tofe_export.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Section VI.A of the paper, and what it does not say."""

    budgets: tuple[float, ...] = ()
    """GMACs; several train one model that serves them all."""
    epochs: int = 30
    batch_size: int = 1024
    """Images per optimiser step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step."""
    seed: int = 0
    precision: str = "fp32"
    """"fp32" or "bf16" (automatic mixed precision)."""

    lr: float = 1e-4
    """Initial learning rate of selectors and approximators."""
    min_lr: float = 2e-6
    backbone_lr_scale: float = 1.0
    """The backbone's learning rate as a multiple of theirs; 0.1 to 0.01 in related work."""
    fixed_epochs: float = 5
    """Epochs during which the backbone's learning rate is 0."""
    warmup_epochs: float = 0
    weight_decay: float = 0.05
    clip_grad: float = 0
    """Largest norm of the gradient; 0 does not clip."""
    ema: float = 0.9999
    """Decay of the averaged weights, which are the ones saved; warmed up; 0 saves the last ones."""

    lambda_cls: float = 1.0
    lambda_apr: float = 2.0
    lambda_budget: float | None = None
    """Weight of the budget loss; None takes 100 for "ratio" (5 * 4.6^2, the paper's), 5 for "gmacs"."""
    budget_unit: str = "ratio"
    """"ratio": ((F - target) / F_dense)^2, as strong for every backbone; "gmacs": GFLOPs^2."""
    budget_mean: str = "batch"
    """"batch": square of the mean error (Eq. 13); "sample": mean of the squares (Eq. 14)."""
    budget_control: str = "loss"
    """"loss" alone, or "multiplier": a Lagrange multiplier removes the bias that the squared loss leaves."""
    multiplier_rate: float = 0.02
    """Step of the multiplier per optimiser step, in units of lambda_budget times the relative error."""
    distill: float = 0.0
    """Weight of KL(student || teacher) on logits; 0.5 in related work, 0 in the paper."""
    tau: float = 1.0
    """Temperature of the Gumbel-softmax."""
    keep_bias: float = 0.0
    """Initial log-odds of keeping a token; above 0 training starts denser."""
    ratios: tuple[float, ...] = ()
    """Fixed keep ratios per stage instead of a learned allocation (Table V)."""

    augment: str = "deit"
    """"deit" (RandAugment, erasing, random crops, mixing, smoothing as DeiT) or "none"."""
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    erase: float = 0.25
    holdout: float = 0.1
    """Share of the training images held out where the data has no validation split."""
    max_corrupt: float = 0.01
    """Share of unreadable images above which training stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in _NOT_NEGATIVE:
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name, choices in CHOICES.items():
            _require(
                name, getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(choices)}"
            )
        _require("lambda_budget", self.lambda_budget, (self.lambda_budget or 0) >= 0, "0 or more")
        _require("ema", self.ema, self.ema < 1, "below 1")
        _require("tau", self.tau, self.tau > 0, "above 0")
        _require("holdout", self.holdout, self.holdout < 1, "below 1")
        _require("min_lr", self.min_lr, self.min_lr <= self.lr, f"at most lr ({self.lr})")
        _require("budgets", self.budgets, all(b > 0 for b in self.budgets), "above 0")
        _require("ratios", self.ratios, all(0 < r <= 1 for r in self.ratios), "shares in (0, 1]")

    @property
    def budget_weight(self) -> float:
        """The weight of the budget loss, settled."""
        if self.lambda_budget is not None:
            return self.lambda_budget
        return 100.0 if self.budget_unit == "ratio" else 5.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for the checkpoint and the state file."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_json`; raises UsageError for values that make no sense."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**{key: value for key, value in values.items() if key in known})


_NOT_NEGATIVE = (
    *("lr", "min_lr", "backbone_lr_scale", "fixed_epochs", "warmup_epochs", "weight_decay", "clip_grad"),
    *("ema", "lambda_cls", "lambda_apr", "multiplier_rate", "distill"),
    *("mixup", "cutmix", "smoothing", "erase", "holdout", "max_corrupt"),
)
CHOICES = {
    "precision": ("fp32", "bf16"),
    "budget_unit": ("ratio", "gmacs"),
    "budget_mean": ("batch", "sample"),
    "budget_control": ("loss", "multiplier"),
    "augment": ("deit", "none"),
}


def _require(name: str, found: object, holds: bool, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name.replace('_', '-')}: expected {expected}, found {found}")
