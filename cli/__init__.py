"""The command line: one file per command, listed here by hand; `tofe-export` and `python -m tofe_export.cli`.

Commands import what is heavy inside their function, so every `--help` answers at once, also on a device where
torch and onnx are absent. They report failure in one way, by raising a `TofeError`; `Program.main` below is
the only place that turns it into a line on stderr and an exit code. Any other exception is a bug and keeps
its traceback.
"""

from __future__ import annotations

import errno
import os
import sys

from tofe_export import __version__, errors

try:
    from typing import Any, NoReturn

    import click

    from tofe_export.cli import (
        advise,
        bench,
        calibrate,
        console,
        eval,
        fit,
        init,
        inspect,
        lint,
        onnx,
        options,
        predict,
        train,
        trt,
        verify,
    )
except KeyboardInterrupt:  # Ctrl-C while the program is still being read: no traceback for that either
    sys.stderr.write("error: interrupted\n")
    sys.exit(errors.INTERRUPTED)

_OUTSIDE = {
    errno.EACCES: "Give yourself the permission, or name another path",
    errno.EPERM: "Give yourself the permission, or name another path",
    errno.ENAMETOOLONG: "Name a shorter path",
    errno.EIO: "The disk or the network drive fails: copy what is on it elsewhere",
    errno.ESTALE: "The network drive lost it: mount it again",
}
"""What no code is to blame for, wherever it met it: a path that was given, as far as nobody said more."""
_MOVE = 'cd "$PWD" leads to what is in its place now, if there is anything'


class Program(click.Group):
    """A group that keeps the order of its commands and maps errors to exit codes (all from `errors.py`)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of a session: make, prove, use, look."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - click's own arguments, passed on
        """Run a command line and exit."""
        if not _here():
            console.fail(f"the folder you are in is gone: {_MOVE}")
            sys.exit(errors.UsageError.exit_code)
        kwargs = {"prog_name": "tofe-export", **kwargs, "standalone_mode": False}
        try:
            status = super().main(*args, **kwargs)
        except errors.TofeError as error:
            console.fail(str(error))
            sys.exit(error.exit_code)
        except click.UsageError as error:
            error.show()
            sys.exit(errors.UsageError.exit_code)
        except OSError as error:
            if error.filename is None or error.errno not in _OUTSIDE:
                raise
            name, reason = os.fsdecode(error.filename), (error.strerror or "").lower()
            console.fail(f"{name} cannot be used: {reason}. {_OUTSIDE[error.errno]}")
            sys.exit(errors.InputError.exit_code)
        except (click.Abort, KeyboardInterrupt) as stop:  # the latter while click was ending the command
            if isinstance(
                stop.__cause__, EOFError
            ):  # click takes any EOFError for Ctrl-D; ours would be a bug
                raise stop.__cause__ from None
            console.fail("interrupted")
            sys.exit(errors.INTERRUPTED)
        if not _here():  # the bundle was extended from within: a new folder stands in the old one's place
            console.warn(f"the folder you are in was replaced: {_MOVE}")
        sys.exit(status if isinstance(status, int) else 0)


def _here() -> bool:
    """Whether the current folder exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="tofe-export %(version)s")
@options.quiet
def main() -> None:
    """Halve a vision transformer's compute with token freezing, and prove the exported graph on the device.

    BUNDLE is ./tofe_bundle where none is named. Exit codes: 0 ok, 1 a verdict failed, 2 usage, 3 bad input, 4
    bundle damaged, 5 an extra or backend is missing, 6 build failed, 7 precision not honoured, 8 cannot
    write, 130 interrupted.
    """


main.add_command(advise.command)
main.add_command(train.command)
main.add_command(fit.command)
main.add_command(eval.command)
main.add_command(init.command)
main.add_command(calibrate.command)
main.add_command(onnx.command)
main.add_command(trt.command)
main.add_command(verify.command)
main.add_command(bench.command)
main.add_command(lint.command)
main.add_command(predict.command)
main.add_command(inspect.command)
