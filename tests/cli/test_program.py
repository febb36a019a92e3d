"""The program around the commands: how they fail, and with which exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tofe_export import __version__, errors
from tofe_export.cli import Program, main


@pytest.fixture
def program() -> click.Group:
    return Program("tofe-export")


def call(program: click.Group, problem: BaseException, *arguments: str) -> Result:
    """Run a command that raises `problem`."""

    @program.command("work")
    def work() -> None:
        raise problem

    return CliRunner().invoke(program, ["work", *arguments])


def all_errors(kind: type[errors.TofeError] = errors.TofeError) -> list[type[errors.TofeError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in all_errors(child))]


@pytest.mark.parametrize("kind", [kind for kind in all_errors() if kind is not errors.MissingExtra])
def test_every_error_of_ours_is_one_line_and_its_exit_code(
    program: click.Group, kind: type[errors.TofeError]
) -> None:
    result = call(program, kind("expected this, found that"))
    assert (result.exit_code, result.stdout) == (kind.exit_code, "")
    assert result.stderr == "error: expected this, found that\n"


def test_a_missing_extra_says_the_pip_line(program: click.Group) -> None:
    result = call(program, errors.MissingExtra("torch", "export"))
    assert result.exit_code == 5
    assert "pip install 'tofe-export[export]'" in result.stderr


def test_an_interrupt_is_130_without_a_traceback(program: click.Group) -> None:
    result = call(program, KeyboardInterrupt())
    assert result.exit_code == errors.INTERRUPTED
    assert result.stderr.strip() == "error: interrupted"


def test_an_interrupt_of_the_end_is_130_too(program: click.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Group, "main", interrupted)
    result = CliRunner().invoke(program, ["work"])
    assert (result.exit_code, result.stderr.strip()) == (errors.INTERRUPTED, "error: interrupted")


def test_an_interrupt_while_the_program_is_read_is_130_too() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tofe_export.cli.verify':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "import tofe_export.cli"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (errors.INTERRUPTED, "", "error: interrupted\n")


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = CliRunner().invoke(main, ["inspect", "--json", "report.json"])
    assert (result.exit_code, result.stdout) == (errors.UsageError.exit_code, "")
    assert result.stderr.startswith("error: the folder you are in is gone: cd ")


def test_a_folder_that_a_command_replaced_is_said(
    program: click.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")

    @program.command("extend")
    def extend() -> None:
        (tmp_path / "bundle").rmdir()
        (tmp_path / "bundle").mkdir()

    result = CliRunner().invoke(program, ["extend"])
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: the folder you are in was replaced: cd ")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE])
def test_a_path_that_the_system_keeps_from_us_is_bad_input(program: click.Group, code: int) -> None:
    result = call(program, OSError(code, os.strerror(code), "secret/photo.jpg"))
    assert (result.exit_code, result.stdout) == (errors.InputError.exit_code, "")
    assert result.stderr.startswith(f"error: secret/photo.jpg cannot be used: {os.strerror(code).lower()}. ")


@pytest.mark.parametrize(
    "bug", [OSError(errno.ENOENT, "no such file", "weights.bin"), OSError(errno.EACCES, "denied")]
)
def test_other_errors_of_the_system_are_bugs(program: click.Group, bug: OSError) -> None:
    assert call(program, bug).exception is bug


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), EOFError("bug"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(program: click.Group, bug: Exception) -> None:
    result = call(program, bug)
    assert result.exception is bug


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["verify", "--nosuch"], "No such option"),
        (["verify", "--budget", "x"], "expected a number, got 'x'"),
    ],
)
def test_usage_errors_are_2_and_on_stderr(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (errors.UsageError.exit_code, "")
    assert message in result.stderr


def test_the_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"tofe-export {__version__}\n")


@pytest.mark.parametrize("name", main.commands)
def test_every_command_takes_quiet_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "--quiet" in result.output
    assert main.commands[name].short_help


def test_help_lists_the_commands_in_the_order_of_a_session() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    positions = [text.index(f"  {name} ") for name in main.commands]
    assert positions == sorted(positions)


@pytest.mark.parametrize("arguments", [["--quiet", "talk"], ["talk", "--quiet"]])
def test_quiet_before_or_after_the_command(arguments: list[str]) -> None:
    from tofe_export.cli import console, options

    @click.command("talk")
    @options.quiet
    def talk() -> None:
        console.note("remark")

    group = Program("tofe-export", params=list(main.params))
    group.add_command(talk)
    assert CliRunner().invoke(group, arguments).stderr == ""
    assert CliRunner().invoke(group, ["talk"]).stderr == "remark\n"
