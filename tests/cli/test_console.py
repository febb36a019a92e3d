"""Where text goes, and that it survives the stream it goes to."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import console, options
from tofe_export.errors import WriteError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told to, before a usual terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("COLUMNS", raising=False)


@click.command()
@options.quiet
@options.json_target
def talk(json_target: str | None) -> None:
    console.say("answer")
    console.note("remark")
    console.warn("beware")
    console.emit({"n": 1}, json_target)


def spoken(*arguments: str) -> Result:
    result = CliRunner().invoke(talk, arguments)
    assert result.exit_code == 0
    return result


def test_answers_go_to_stdout_and_the_rest_to_stderr() -> None:
    result = spoken()
    assert (result.stdout, result.stderr) == ("answer\n", "remark\nwarning: beware\n")


def test_quiet_drops_remarks_only() -> None:
    result = spoken("--quiet")
    assert (result.stdout, result.stderr) == ("answer\n", "warning: beware\n")


def test_json_on_stdout_has_stdout_for_itself() -> None:
    result = spoken("--json", "-")
    assert json.loads(result.stdout) == {"n": 1}
    assert result.stderr == "answer\nremark\nwarning: beware\n"


def test_json_on_stdout_and_quiet_leave_only_warnings() -> None:
    assert spoken("--json", "-", "--quiet").stderr == "warning: beware\n"


def test_json_to_a_file_leaves_the_answer_on_stdout(tmp_path: Path) -> None:
    assert spoken("--json", str(tmp_path / "out.json")).stdout == "answer\n"
    assert json.loads((tmp_path / "out.json").read_text()) == {"n": 1}


def test_a_switch_does_not_outlive_its_call() -> None:
    spoken("--quiet", "--json", "-")
    assert spoken().stdout == "answer\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": float("nan"), "b": [float("inf"), 1.5]}, {"a": None, "b": [None, 1.5]}),
        ({"t": (1, 2), "m": {"x": -float("inf")}}, {"t": [1, 2], "m": {"x": None}}),
        ({"name": "naïve 猫"}, {"name": "naïve 猫"}),
    ],
)
def test_json_is_strict_and_ascii(
    data: Mapping[str, Any], expected: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    console.emit(data, "-")
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == expected


def test_no_target_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({"n": 1}, None)
    assert capsys.readouterr().out == ""


def test_json_that_cannot_be_written_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"missing.out\.json"):
        console.emit({"n": 1}, str(tmp_path / "missing" / "out.json"))


def test_columns_are_aligned() -> None:
    text = console.table(("name", "n"), [("a", 1), ("longer", 100), (None, 20)], right=(1,))
    assert text == "name      n\n------  ---\na         1\nlonger  100\n-        20"


def test_wide_and_combining_characters_are_counted_as_the_terminal_shows_them() -> None:
    lines = console.table(("c", "x"), [("猫", "1"), ("cafe\u0301", "2"), ("cafe", "3")]).split("\n")
    assert lines[2:] == ["猫    1", "cafe\u0301  2", "cafe  3"]


def test_a_name_cannot_break_the_table_or_drive_the_terminal() -> None:
    text = console.table(("name",), [("two\nlines \x1b[2J",)])
    assert text.split("\n")[2] == "two\N{REPLACEMENT CHARACTER}lines \N{REPLACEMENT CHARACTER}[2J"


def test_control_characters_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b]0;title\x07b\nc")
    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b\nc\n"


def test_an_ascii_pipe_gets_escapes_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", pipe)
    console.say("naïve")
    pipe.flush()
    pipe.buffer.seek(0)
    assert pipe.buffer.read() == b"na\\xefve\n"


def started(*commands: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The outcome of a process that makes these calls of the console."""
    code = "from tofe_export.cli import console\n" + "\n".join(commands)
    return subprocess.run([sys.executable, "-c", code], text=True, **streams)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("call", ["console.say('answer')", "console.emit({'n': 1}, '-')"])
def test_an_answer_that_does_not_fit_the_disk_is_a_write_error(call: str) -> None:
    guarded = f"try:\n    {call}\nexcept console.WriteError as error:\n    console.fail(str(error))"
    with open("/dev/full", "w") as full:
        done = started(guarded, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr  # Python, too, has nothing to complain of at its end
    assert done.stderr.startswith("error: standard output could not be written: no space left on device; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("call", ["console.say('answer')", "console.emit({'n': 1}, '-')"])
def test_a_reader_that_has_stopped_ends_the_command_without_a_word(call: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = started(call, "console.note('never')", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (WriteError.exit_code, "")


def test_remarks_that_nobody_takes_do_not_end_the_work() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    calls = ("console.note('remark')", "console.warn('beware')", "console.say('answer')")
    done = started(*calls, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "answer\n")


def test_streams_that_were_never_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    console.say("answer")
    with pytest.raises(WriteError, match="no standard output"):
        console.emit({"n": 1}, "-")


def test_no_stderr_does_not_bring_remarks_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    console.note("remark")
    with console.progress("verify", 1) as progress:
        progress.advance()
    assert capsys.readouterr().out == ""


def test_progress_shows_nothing_for_two_seconds_and_wipes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress("verify", 3) as progress:
        clock.now += 1.0
        progress.advance(what="first")
        assert terminal.getvalue() == ""
        clock.now += 1.5
        progress.advance(what="second")
        assert terminal.getvalue() == "\rverify 2/3 second"
        clock.now += 1.5
        progress.advance(what="3rd")
    shown = terminal.getvalue()
    assert "\rverify 3/3 3rd   " in shown  # blanks over the longer line before
    assert shown.endswith("\r" + " " * len("verify 3/3 3rd") + "\r")


def test_progress_without_a_total_shows_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress("export:") as progress:
        clock.now += 3.0
        progress.show("tracing")
    assert terminal.getvalue().startswith("\rexport: tracing\r")


def test_progress_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    with console.progress("verify") as progress:
        clock.now += 3.0
        progress.show("n" * 200)
    assert [len(line) for line in terminal.getvalue().split("\r") if line] == [39, 39]


def test_progress_is_silent_on_a_terminal_that_cannot_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with console.progress("verify", 2) as progress:
        clock.now += 60.0
        progress.advance()
    assert terminal.getvalue() == ""


def test_progress_redraws_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    bar = console.Progress("x", 1000, terminal, live=True)
    clock.now += 3.0
    for _ in range(100):
        clock.now += 0.01
        bar.advance()
    assert 9 <= terminal.getvalue().count("\r") <= 11


def test_progress_is_silent_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pipe = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with console.progress("verify", 2) as progress:
        clock.now += 60.0
        progress.advance(2)
    assert pipe.getvalue() == ""


def test_progress_is_silent_with_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    with click.Context(talk) as context:
        console.set_quiet(context)
        monkeypatch.setattr(sys, "stderr", terminal)
        with console.progress("verify", 2) as progress:
            clock.now += 60.0
            progress.advance()
    assert terminal.getvalue() == ""


def test_progress_is_wiped_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def work() -> None:
        with console.progress("verify", 2) as progress:
            clock.now += 60.0
            progress.advance()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert terminal.getvalue().endswith("\r")
