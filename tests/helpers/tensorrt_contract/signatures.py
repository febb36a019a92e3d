"""What TensorRT's own functions take, by the signatures that pybind11 writes into their documentation.

    (flags: int = 0) -> INetworkDefinition

Overloaded functions have "(*args, **kwargs)" there: nothing is known of those.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

_OPEN, _CLOSE = "([{<", ")]}>"


@dataclass(frozen=True)
class Signature:
    """Names in order, and how many of them must be given."""

    names: tuple[str, ...]
    needed: int

    def fault_of(self, node: ast.Call) -> str | None:
        """Why a call does not fit, or None."""
        unknown = [k.arg for k in node.keywords if k.arg is not None and k.arg not in self.names]
        if unknown:
            return f"has no parameter {unknown[0]!r}, only {', '.join(self.names) or 'none'}"
        spread = any(isinstance(argument, ast.Starred) for argument in node.args)
        if spread or any(keyword.arg is None for keyword in node.keywords):
            return None
        by_place = self.names[: len(node.args)]
        if twice := [k.arg for k in node.keywords if k.arg in by_place]:
            return f"is given {twice[0]!r} twice"
        if len(node.args) > len(self.names):
            return f"takes {len(self.names)} arguments, {len(node.args)} are given"
        missing = [n for n in self.names[len(node.args) : self.needed] if n not in _named(node)]
        return f"needs {missing[0]!r}" if missing else None


def parse(text: str) -> Signature | None:
    """The signature in an inventory's text; None where it tells none."""
    if not text.startswith("(") or "*args" in text:
        return None
    parts = [part for part in _parts(text[1 : _end(text)]) if part]
    names = [found[1] for part in parts if (found := re.match(r"(\w+)", part))]
    return Signature(tuple(names), sum(" = " not in part for part in parts))


def _named(node: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in node.keywords}


def _end(text: str) -> int:
    """Where the first bracket is closed."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in _OPEN) - (letter in _CLOSE and text[place - 1] != "-")
        if depth == 0:
            return place
    raise AssertionError(f"no end in {text}")


def _parts(inside: str) -> list[str]:
    """Cut at the commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
