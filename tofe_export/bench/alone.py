"""One side by itself, in a fresh process, with the runtime's own defaults.

Paired runs need both sessions open and threads that do not spin; a product has one session and the defaults.
Both figures are worth knowing, and this one also gives the peak memory of a variant, which one process with
three sessions cannot. Two such runs are minutes apart, so their ratio is shown beside the paired one and
claims nothing.

`python -m tofe_export.bench.alone` reads a request (JSON) from stdin and writes the answer to stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tofe_export import errors
from tofe_export.bench.pairs import Pair
from tofe_export.bench.rounds import Plan, measure
from tofe_export.bench.sides import How, feeds_of, open_side, peak_memory
from tofe_export.bench.statistics import Summary
from tofe_export.bench.timing import timer_of
from tofe_export.bundle import Bundle
from tofe_export.inputs import as_fed

_KINDS = {
    kind.exit_code: kind
    for kind in (errors.UsageError, errors.InputError, errors.BundleError, errors.MissingBackend)
}

Facts = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a fresh process measures."""

    bundle: str
    variant: str
    how: How
    plan: Plan


Measure = Callable[[Request], Facts]


def measure_alone(bundle: Bundle, pair: Pair, how: How, plan: Plan, run: Measure | None = None) -> Facts:
    """Both sides of a pair, each in its own process: {"variant", "against", "ratio"}.

    Raises the errors of the child's session as they are there.
    """
    alone = How(**asdict(how) | {"spinning": True})
    sides = {"variant": pair.variant, "against": pair.against}
    requests = {name: Request(str(bundle.path), side.name, alone, plan) for name, side in sides.items()}
    found = {name: (run or in_fresh_process)(request) for name, request in requests.items()}
    ratio = found["against"]["latency"]["median_ms"] / found["variant"]["latency"]["median_ms"]
    return {**found, "ratio": ratio}


def in_fresh_process(request: Request) -> Facts:
    """Start a process, measure there, and return its answer or raise its error."""
    line = [sys.executable, "-m", "tofe_export.bench.alone"]
    done = subprocess.run(
        line, input=json.dumps(asdict(request)), capture_output=True, text=True, check=False
    )
    try:
        answer: Facts = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise RuntimeError(
            f"the process that measures {request.variant} alone ended with {done.returncode}:\n{done.stderr}"
        ) from None
    if "error" in answer:
        raise _KINDS.get(answer["exit_code"], errors.InputError)(answer["error"])
    return answer


def answer(request: Request) -> Facts:
    """Measure here: {"latency", "with_copies", "peak_memory_bytes"}."""
    bundle = Bundle.open(request.bundle)
    variant = bundle.variant(request.variant)
    images = as_fed(bundle.reference().images, bundle.manifest.model, bundle.manifest.preprocessing)
    with open_side(bundle, variant, request.how) as session:
        timer = timer_of(session, feeds_of(session, images, request.how.batch_of(variant)))
        try:
            series = measure({"alone": timer}, request.plan)["alone"]
        finally:
            timer.close()
    copies = None if series.with_copies is None else asdict(Summary.of(series.with_copies))
    return {
        "latency": asdict(Summary.of(series.seconds)),
        "with_copies": copies,
        "peak_memory_bytes": peak_memory(),
    }


def main() -> None:
    """Answer one request."""
    data = json.load(sys.stdin)
    data["how"], data["plan"] = How(**data["how"]), Plan(**data["plan"])
    try:
        found = answer(Request(**data))
    except errors.TofeError as error:
        found = {"error": str(error), "exit_code": error.exit_code}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
