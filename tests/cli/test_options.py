"""What the shared options accept, what they make of it, and how they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tofe_export import bundle, manifest
from tofe_export.cli import main, options
from tofe_export.runtime import onnxruntime, session


def parse(option: Callable[..., Any], *arguments: str) -> dict[str, Any]:
    """What a command with this option receives. Raises click.UsageError as the command line would."""
    received: dict[str, Any] = {}

    @click.command()
    @option
    def command(**values: Any) -> None:
        received.update(values)

    command.main(list(arguments), standalone_mode=False)
    return received


@pytest.mark.parametrize(
    ("option", "arguments", "expected"),
    [
        (options.names, (), {"names": ()}),
        (options.names, ("--variant", "b,a", "--variant", "c"), {"names": ("b", "a", "c")}),
        (options.names, ("--variant", "a,b", "--variant", "a"), {"names": ("a", "b")}),
        (options.budgets, ("--budget", "2.0, 2.5", "--budget", "3"), {"budgets": (2.0, 2.5, 3.0)}),
        (options.budgets, ("--budget", "2,2.0"), {"budgets": (2.0,)}),
        (options.lowerings, ("--lowering", "concat,scatter"), {"lowerings": ("concat", "scatter")}),
        (options.precisions, ("--precision", "fp16"), {"precisions": ("fp16",)}),
        (options.batches, ("--batch", "1,8,dyn"), {"batches": (1, 8, "dyn")}),
        (options.batches, ("--batch", "dynamic,dyn"), {"batches": ("dyn",)}),
        (options.keep, ("--keep", "96,49,27"), {"keep": (96, 49, 27)}),
        (options.keep, ("--keep", "49,49,49"), {"keep": (49, 49, 49)}),
        (options.keep, (), {"keep": None}),
        (options.bundle, (), {"bundle": Path("tofe_bundle")}),
        (options.bundle, ("elsewhere",), {"bundle": Path("elsewhere")}),
        (options.ckpt, ("--ckpt", "a.pt"), {"ckpt": Path("a.pt")}),
        (options.num_images, ("--num-images", "64"), {"num_images": 64}),
        (options.json_target, ("--json", "-"), {"json_target": "-"}),
    ],
)
def test_accepted(option: Callable[..., Any], arguments: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert parse(option, *arguments) == expected


@pytest.mark.parametrize(
    ("option", "arguments", "message"),
    [
        (options.names, ("--variant", "a,,b"), "an empty item"),
        (options.names, ("--variant", ""), "an empty item"),
        (options.budgets, ("--budget", "two"), "expected a number, got 'two'"),
        (options.budgets, ("--budget", "0"), "expected a budget in GMACs above 0, got '0'"),
        (options.budgets, ("--budget", "-1"), "above 0"),
        (options.budgets, ("--budget", "nan"), "above 0"),
        (options.budgets, ("--budget", "inf"), "above 0"),
        (options.budgets, ("--budget", "2.0,"), "expected a number, got ''"),
        (options.lowerings, ("--lowering", "scater"), "expected one of scatter, concat, adaptive, dense"),
        (options.precisions, ("--precision", "half"), "expected one of fp32"),
        (options.batches, ("--batch", "0"), "at least 1, got '0'"),
        (options.batches, ("--batch", "1.5"), "expected an integer, got '1.5'"),
        (options.keep, ("--keep", "96;49"), "expected an integer, got '96;49'"),
        (options.keep, ("--keep", "96,0,3"), "at least 1, got '0'"),
        (options.num_images, ("--num-images", "0"), "x>=1"),
        (options.required_ckpt, (), "--ckpt"),
    ],
)
def test_refused(option: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.UsageError) as error:
        parse(option, *arguments)
    assert message in error.value.format_message()


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_ranges_hold_finite_numbers_only(text: str) -> None:
    for kind in (options.FiniteRange(), options.FiniteRange(0, 1), options.FiniteRange(min=0)):
        with pytest.raises(click.UsageError):
            parse(click.option("--share", type=kind), "--share", text)
    assert parse(click.option("--share", type=options.FiniteRange(0, 1)), "--share", "1") == {"share": 1.0}


def test_seeds_fit_every_generator() -> None:
    option = click.option("--seed", type=options.Seed(), default=0)
    for seed in (-(2**32) + 1, 2**32 - 1):
        assert parse(option, "--seed", str(seed)) == {"seed": seed}
    for seed in (-(2**32), 2**32):
        with pytest.raises(click.UsageError, match="at most 32 bits"):
            parse(option, "--seed", str(seed))


@pytest.mark.parametrize("name", main.commands)
def test_every_command_refuses_what_is_no_number(name: str) -> None:
    for option in main.commands[name].params:
        if option.type is click.FLOAT or isinstance(option.type, click.FloatRange):
            assert isinstance(option.type, options.FiniteRange), option.name
        if option.name == "seed":
            assert isinstance(option.type, options.Seed)


def test_json_into_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError) as error:
        parse(options.json_target, "--json", str(tmp_path / "missing" / "report.json"))
    assert "create it first" in error.value.format_message()


def test_variant_filters_are_what_a_bundle_selects_by() -> None:
    given = parse(options.variant_filters, "--variant", "a", "--budget", "2", "--batch", "dyn")
    expected = {"names": ("a",), "budgets": (2.0,), "lowerings": (), "precisions": (), "batches": ("dyn",)}
    assert given == expected
    assert set(given) < set(inspect.signature(bundle.Bundle.select).parameters)


def test_help_shows_the_filters_by_name_first() -> None:
    shown = CliRunner().invoke(main, ["inspect", "--help"]).output
    flags = ("--variant", "--budget", "--lowering", "--precision", "--batch")
    positions = [shown.index(flag) for flag in flags]
    assert positions == sorted(positions)


def test_names_that_are_written_twice_to_keep_help_fast_agree() -> None:
    """Importing them would pull numpy into every `--help`."""
    assert Path(bundle.DEFAULT_PATH) == options.DEFAULT_BUNDLE
    assert options.LOWERINGS == manifest.LOWERINGS
    assert options.BACKENDS == session.BACKENDS
    assert tuple(onnxruntime.PROVIDERS) == options.PROVIDERS
