"""docs/lint.md names every rule, in its order and in its words."""

from __future__ import annotations

import re
from pathlib import Path

from tofe_export.lint.rules import RULES
from tofe_export.lint.targets import TARGETS

TEXT = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")


def test_the_table_lists_the_rules() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| (.+?) \|", TEXT, re.MULTILINE)
    assert listed == [(rule.id, rule.looks_for) for rule in RULES]


def test_every_target_is_there() -> None:
    assert all(f"`{target.name}`" in TEXT for target in TARGETS)
