"""`tofe-export lint [BUNDLE|FILE.onnx]`: would each TensorRT take these graphs, and compute them rightly?

A bundle's variants are checked for the versions they are meant for (their `targets` in the manifest), probes
included; a file of any origin for all versions that are known. Errors are the verdict, warnings and advice
are not. Nothing is built and no device is needed, only the onnx package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import bundles, console, host, options
from tofe_export.errors import InputError, UsageError, VerdictFailed

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.lint.report import Checked
    from tofe_export.lint.targets import Target
    from tofe_export.manifest import Variant

    Graph = tuple[str, Path, Sequence[Target]]  # name, file, what to check it for

ALL = "all"


@click.command("lint", short_help="Check graphs against TensorRT's operator matrix.")
@click.argument(
    "path",
    metavar="[BUNDLE|FILE.onnx]",
    type=options.PATH,
    default=options.DEFAULT_BUNDLE,
    required=False,
)
@options.comma_list(
    "--target",
    "targets",
    options.name_item,
    "NAME,...",
    "TensorRT versions, such as trt-10.3 or jetpack-6.2, or all; may repeat. Default: what a variant is "
    "meant for; for a file, all.",
)
@options.variant_filters
@options.json_target
@options.quiet
def command(
    path: Path,
    targets: tuple[str, ...],
    json_target: str | None,
    **filters: Any,  # noqa: ANN401 - options.variant_filters
) -> None:
    """Check the graphs of a bundle, or any ONNX file, against the operator matrix of TensorRT versions.

    Prints each finding with its node, rule, source and mend; exit 0 only if no finding is an error.
    """
    from tofe_export.lint.targets import TARGETS, parse_target

    wanted = TARGETS if ALL in targets else tuple(dict.fromkeys(parse_target(name) for name in targets))
    host.require_onnx()
    if is_file(path):
        if any(filters.values()):
            raise UsageError(f"{path} is one graph: leave out the options that pick variants of a bundle")
        graphs: list[Graph] = [(path.name, path, wanted or TARGETS)]
    else:
        opened = bundles.open_bundle(path)
        graphs = graphs_of(opened, bundles.variants_of(opened, filters), wanted)
    report(check(graphs), json_target)


def is_file(path: Path) -> bool:
    """Whether the argument is meant as an ONNX file. Raises InputError if it is and is not there."""
    try:
        return not S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if path.suffix != ".onnx":
            return False  # the bundle's own error says what is wrong
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise
        raise InputError(f"{path}: expected an ONNX file or a bundle, found nothing") from error


def graphs_of(bundle: Bundle, variants: Sequence[Variant], wanted: Sequence[Target]) -> list[Graph]:
    """The graphs of the variants and their probes. Raises BundleError for one that is damaged."""
    from tofe_export.lint.targets import parse_target

    graphs: list[Graph] = []
    for variant in variants:
        targets = wanted or tuple(parse_target(version) for version in variant.targets)
        parts = [(variant.name, variant.file, variant.sha256)]
        if variant.probe:
            parts.append((f"{variant.name} (probe)", variant.probe.file, variant.probe.sha256))
        for name, relative, sha256 in parts:
            bundle.check_file(relative, sha256)
            graphs.append((name, bundle.file(relative), targets))
    return graphs


def check(graphs: Sequence[Graph]) -> list[Checked]:
    """Every graph for its targets, with progress."""
    from tofe_export.lint.lint import lint_targets
    from tofe_export.lint.report import Checked

    checked = []
    with console.progress("lint", len(graphs)) as progress:
        for name, file, targets in graphs:
            progress.show(name)
            checked.append(Checked(name, str(file), lint_targets(file, targets)))
            progress.advance(what=name)
    return checked


def report(checked: Sequence[Checked], json_target: str | None) -> None:
    """Print and write what was found. Raises VerdictFailed if anything is an error."""
    from tofe_export.lint.report import details, rows, to_json

    headers, cells = rows(checked)
    console.say(console.table(headers, cells))
    for one in checked:
        if text := details(one):
            console.say(f"\n{text}")
    if idle := [one.name for one in checked if not one.findings]:
        console.note(f"\nmeant for no TensorRT, so not checked: {', '.join(idle)}. Name versions by --target")
    console.emit(to_json(checked), json_target)
    if bad := [one.name for one in checked if not one.clean]:
        raise VerdictFailed(f"{len(bad)} of {len(checked)} graphs have errors: {', '.join(bad)}")
