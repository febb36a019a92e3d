"""What people see: one place that knows where text goes.

    say       stdout   the answer of a command: a table, a verdict, a prediction
    note      stderr   a remark on the way; `--quiet` drops it
    warn      stderr   something the user must not miss; `--quiet` keeps it
    progress  stderr   one line that rewrites itself, on a terminal only, once the work has taken two seconds
    emit      stdout or a file, JSON for machines

With `--json -` stdout belongs to the machine: `say` then speaks on stderr, so that a pipe into another
program never meets a table. The two switches live in the click context (`--quiet` and `--json` set them),
which is why a command calls plain functions and hands nothing around. Text is made safe for the stream it
goes to: a name that an ASCII pipe cannot carry is escaped rather than a crash, and control characters never
reach the terminal.

A stream may refuse. An answer that stdout does not take is a `WriteError`, silent where the reader of a pipe
has stopped reading (`| head`); a remark that stderr does not take is lost, and the work goes on.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import click

from tofe_export.errors import WriteError

SECONDS_BEFORE_PROGRESS = 2.0
SECONDS_BETWEEN_UPDATES = 0.1
LONGEST_PROGRESS = 100

_QUIET = "tofe_export.quiet"
_JSON_ON_STDOUT = "tofe_export.json_on_stdout"


def set_quiet(context: click.Context) -> None:
    """Drop remarks and progress for the rest of this call."""
    context.meta[_QUIET] = True


def set_json_on_stdout(context: click.Context) -> None:
    """Keep stdout for JSON for the rest of this call."""
    context.meta[_JSON_ON_STDOUT] = True


def is_quiet() -> bool:
    """Whether `--quiet` was given; False outside a command."""
    return _switch(_QUIET)


def say(text: str = "") -> None:
    """Print a part of the answer on stdout; as a remark, where stdout is for JSON."""
    if not _switch(_JSON_ON_STDOUT):
        _write(text, sys.stdout)
    else:
        note(text)


def note(text: str) -> None:
    """Print a remark on stderr, unless `--quiet` was given."""
    if not is_quiet():
        _write(text, sys.stderr)


def warn(text: str) -> None:
    """Print a warning on stderr, always."""
    _write(f"warning: {text}", sys.stderr)


def fail(text: str) -> None:
    """Print the error that ends the command on stderr; the caller sets the exit code."""
    _write(f"error: {text}", sys.stderr)


def emit(data: Mapping[str, Any], target: str | None) -> None:
    """Write `data` as JSON to a file, to stdout ("-") or nowhere (None).

    Strict JSON: NaN and infinities, which a reader may refuse, become null. Raises `WriteError`.
    """
    if target is None:
        return
    text = json.dumps(_strict(data), indent=2, allow_nan=False) + "\n"
    if target == "-":
        if sys.stdout is None:  # closed by whoever started us
            raise WriteError("--json -: there is no standard output to write to; name a file instead of -")
        _send(text, sys.stdout)
        return
    from tofe_export.files import write_atomic

    write_atomic(Path(target), text.encode())


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Lay cells out in aligned columns, two spaces apart; columns in `right` (0-based) are right-aligned.

    Widths count terminal columns, so that names in Chinese or with accents line up; None is shown as "-".
    """
    cells = [[_printable(str(header)) for header in headers]]
    cells += [["-" if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    widths = [max(_columns(row[i]) for row in cells) for i in range(len(headers))]
    lines = ["  ".join(_pad(cell, widths[i], i in right) for i, cell in enumerate(row)) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


class Progress:
    """One line "label 3/12 what" (no numbers without a total), redrawn in place; silent in a pipe."""

    def __init__(self, label: str, total: int | None, stream: TextIO, live: bool) -> None:
        self.label, self.total, self.done = label, total, 0
        self._stream, self._live = stream, live
        self._started = time.monotonic()
        self._drawn_at, self._drawn = 0.0, 0

    def advance(self, count: int = 1, what: str = "") -> None:
        """Count `count` units as done; `what` names the last of them."""
        self.done += count
        self.show(what)

    def show(self, what: str) -> None:
        """Redraw with `what` is being done, without counting."""
        now = time.monotonic()
        if not self._live or now - self._started < SECONDS_BEFORE_PROGRESS:
            return
        if now - self._drawn_at < SECONDS_BETWEEN_UPDATES and self.done != self.total:
            return
        count = "" if self.total is None else f"{self.done}/{self.total} "
        width = min(LONGEST_PROGRESS, shutil.get_terminal_size().columns - 1)  # a line that wraps stays
        line = _encodable(_printable(f"{self.label} {count}{what}".rstrip()), self._stream)[:width]
        self._draw(line.ljust(self._drawn))
        self._drawn_at, self._drawn = now, len(line)

    def clear(self) -> None:
        """Wipe the line, so that what follows starts on an empty one."""
        if self._drawn:
            self._draw(" " * self._drawn + "\r")

    def _draw(self, line: str) -> None:
        try:
            self._stream.write(f"\r{line}")
            self._stream.flush()
        except OSError:  # the terminal is gone: the work need not be
            self._live = False
            _abandon(self._stream)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Progress]:
    """Show progress (over `total` units) on stderr while the body runs; wiped at its end in any case."""
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    bar = Progress(label, total, sys.stderr, live=terminal and not is_quiet())
    try:
        yield bar
    finally:
        bar.clear()


def _switch(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(name, False))


def _write(text: str, stream: TextIO | None) -> None:
    if stream is None:  # closed by whoever started us
        return
    safe = "\n".join(_printable(line) for line in text.split("\n"))
    _send(f"{_encodable(safe, stream)}\n", stream)


def _send(text: str, stream: TextIO) -> None:
    try:
        click.echo(text, file=stream, nl=False)
    except OSError as error:
        _abandon(stream)
        if stream is sys.stderr:
            return
        if error.errno == errno.EPIPE:
            raise SystemExit(WriteError.exit_code) from None
        reason = (error.strerror or str(error)).lower()
        raise WriteError(f"standard output could not be written: {reason}; write elsewhere") from error


def _abandon(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere: Python would try it once more at its end, and complain."""
    with suppress(OSError, ValueError):  # a stream of a test has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _columns(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def _pad(text: str, width: int, right: bool) -> str:
    blank = " " * (width - _columns(text))
    return blank + text if right else text + blank


def _strict(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
