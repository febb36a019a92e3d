"""A digest of the sources that a side is made from: what others made is not used again."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import tofe_export
from latency.cases import METHODS, ORACLE, PLAIN, STRAIGHT

_BENCHMARKS, _PACKAGE = Path(__file__).parents[1], Path(tofe_export.__file__).parent
_FOREIGN = ("model",)  # below the package: what the library's own exporter is given
_OWN = ("model", "graph")


@cache
def sources_of(name: str) -> str:
    """Sixteen digits for a side's name; those that our passes never see do not change with them."""
    folders = [_PACKAGE / part for part in (_FOREIGN if name in (PLAIN, STRAIGHT) else _OWN)]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    files += [_PACKAGE / "budget.py", _PACKAGE / "keep.py", _BENCHMARKS / "drawn.py"]
    files += [_BENCHMARKS / "latency" / file for file in ("cases.py", "models.py")]
    if name in (STRAIGHT, ORACLE):
        files.append(_BENCHMARKS / "latency" / f"{name}.py")
    elif name in METHODS:
        files += [*_rivals("latency"), *_rivals("accuracy")]
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _rivals(part: str) -> list[Path]:
    return list((_BENCHMARKS / part / "rivals").glob("*.py"))
