"""Running programs: each in its own process, so that a crash or a build without end costs one step.

TensorRT runs in the child alone. A child that runs past its time is killed with everything it started: 8.6
cannot be stopped in any other way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
TOFE, LOOK, EXPORT = "tofe-export", "look", "export"
_MARK = "  TensorRT: "  # before TensorRT's own lines, see tofe_export.trt.explain.with_lines


@dataclass(frozen=True)
class Ran:
    """What came of a program."""

    exit_code: int | None  # None: stopped at its time limit; below 0: killed by that signal
    seconds: float
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line that says why it failed; of a traceback or a crash, what there is."""
        if self.exit_code is None:
            return "stopped: its time was used up"
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        said = (errors or lines or ["nothing was printed"])[-1]
        return f"killed by signal {-self.exit_code}: {said}" if self.exit_code < 0 else said

    @property
    def tensorrt_lines(self) -> list[str]:
        """TensorRT's own lines in what was printed: `trt` warns, `verify` reports."""
        printed = f"{self.stderr}\n{self.stdout}".splitlines()
        found = [line.removeprefix(_MARK).strip() for line in printed if line.startswith(_MARK)]
        return list(dict.fromkeys(found))


Runner = Callable[[str, Sequence[str], float], Ran]
"""Runs one of TOFE, LOOK, EXPORT with arguments, for at most so many seconds."""


def processes(host_python: str) -> Runner:
    """A runner of real processes: this Python, and `host_python` (torch, timm, onnx) for EXPORT."""
    programs = {
        TOFE: [sys.executable, "-m", "tofe_export.cli"],
        LOOK: [sys.executable, str(BENCHMARKS / "on_device" / "look.py")],
        EXPORT: [host_python, str(BENCHMARKS / "on_device" / "exports.py")],
    }

    def run(program: str, arguments: Sequence[str], seconds: float) -> Ran:
        environment = dict(os.environ)
        if program == EXPORT and host_python != sys.executable:
            for name in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"):  # a portable Python's own
                environment.pop(name, None)
        path = [str(ROOT), str(BENCHMARKS), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        return run_process([*programs[program], *arguments], seconds, environment)

    return run


def run_process(command: Sequence[str], seconds: float, environment: dict[str, str] | None = None) -> Ran:
    """Run a command for at most so many seconds, then kill it and its children."""
    started = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,  # a group of its own, to be killed as one
    ) as process:
        code: int | None = None
        try:
            stdout, stderr = process.communicate(timeout=max(seconds, 0.1))
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ran(code, round(time.monotonic() - started, 1), stdout, stderr)
