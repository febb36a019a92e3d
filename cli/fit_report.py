"""What `fit` says: every step with what it brought, and how far the model is from the dense one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tofe_export.budget import printed
from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.calibration.divergence import Loss
    from tofe_export.fitting.fit import Done, Fitted
    from tofe_export.fitting.locations import Choice

_WHAT = {
    "modules": "selectors, approximators",
    "counts": "keep counts by measurement",
    "blocks": "blocks refitted",
    "tune": "tuned on the dense answers",
}


def text(fitted: Fitted, choice: Choice) -> str:
    """The steps, then the result in words."""
    headers = ("step", "divergence", "same class", "seconds", "")
    rows = [_row(done) for done in fitted.done]
    keep = "/".join(map(str, fitted.keep))
    lines = [
        _locations(choice),
        "",
        console.table(headers, rows, right=(1, 2, 3)),
        "",
        f"budget {printed(fitted.budget_gmacs)} GMACs: keep {keep}, {printed(fitted.gmacs)} GMACs (paper's); "
        f"selectors: {fitted.way.name}; {fitted.seconds:.0f} s",
        "Divergence from the dense model's answers and its class, on pictures that nothing was fitted on.",
    ]
    if fitted.dense.divergence:
        divergence, agreement = _figures(fitted.dense)
        lines.append(
            f"The backbone changed: run dense, the model is {divergence} from what it was"
            + (f", same class {agreement}" if agreement else "")
            + ". --keep-backbone leaves it as it was."
        )
    return "\n".join(lines)


def _locations(choice: Choice) -> str:
    chosen = f"selections before blocks {', '.join(map(str, choice.locations))}"
    if not choice.tried:
        return chosen
    tried = ", ".join(f"{place} {loss:.4f}" for place, loss in choice.to_json()["tried"].items())
    return f"{chosen}: the least divergence on some of the pictures ({tried})"


def _row(done: Done) -> tuple[object, ...]:
    part = done.facts.get("part", 1.0)
    note = f"{part:.0%} of the way" if part < 1 else ""
    note = note if done.taken else "did not help: undone"
    return (_WHAT[done.name], *_figures(done.loss), f"{done.seconds:.0f}", note)


def _figures(loss: Loss) -> tuple[str, str | None]:
    agreement = None if loss.agreement != loss.agreement else f"{loss.agreement:.1%}"
    return f"{loss.divergence:.4f}", agreement
