"""examples/load_engine.cpp against STUB headers, on sidecars that `trt` wrote (with a FAKE TensorRT).

The stubs under ../cpp_stubs declare what the example uses and compute nothing that TensorRT would. It shows
that the example is C++ for the interfaces of 8.6 to 11.x as documented, and what it says of files that do not
fit; it proves nothing about engines.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import REDUCED_32

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "examples" / "load_engine.cpp"
STUBS = Path(__file__).parents[1] / "cpp_stubs"
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++, c++ or clang++) here")


def compile_with(version: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None  # else skipped
    major, minor = version.split(".")[:2]
    macros = [f"-DNV_TENSORRT_MAJOR={major}", f"-DNV_TENSORRT_MINOR={minor}"]
    line = [COMPILER, "-std=c++17", *WARNINGS, *macros, f"-I{STUBS}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def library_number(version: str) -> int:
    """What getInferLibVersion gives: 8601 for 8.6.1, 100300 for 10.3.0."""
    major, minor, patch = (int(number) for number in version.split(".")[:3])
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The example for a version, each compiled once."""
    made: dict[str, Path] = {}

    def give(version: str) -> Path:
        if version not in made:
            path = tmp_path_factory.mktemp("cpp") / "load_engine"
            macro = f"-DSTUB_VERSION={library_number(version)}"
            done = compile_with(version, macro, SOURCE, STUBS / "stub.cpp", "-o", path)
            assert done.returncode == 0, done.stderr
            made[version] = path
        return made[version]

    return give


@pytest.fixture
def plan(built: Path) -> Path:
    (found,) = [
        path for path in (built / "engines").glob(f"{REDUCED_32}.*.plan") if ".probe." not in path.name
    ]
    return found


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two pictures of 2 x 2: blue, then red."""
    pictures = np.zeros((2, 2, 2, 3), np.uint8)
    pictures[0, ..., 2] = pictures[1, ..., 0] = 10
    pictures.tofile(tmp_path / "frames.raw")
    return tmp_path / "frames.raw"


@pytest.fixture
def load(program: Callable[[str], Path], plan: Path) -> Callable[..., tuple[int, str, str]]:
    """Run the example, made for the plan's own TensorRT unless another is named."""

    own = json.loads(plan.with_suffix(".json").read_text())["tensorrt"]

    def run(images: Path, version: str = own) -> tuple[int, str, str]:
        line = [program(version), plan, images]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


Load = Callable[..., tuple[int, str, str]]


def test_it_is_correct_for_every_interface(version: str) -> None:
    done = compile_with(version, "-fsyntax-only", SOURCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_compiler_would_notice(version: str, tmp_path: Path) -> None:
    wrong = SOURCE.read_text().replace("getIOTensorName(i)", "getBindingName(i)")
    (tmp_path / "wrong.cpp").write_text(wrong)
    done = compile_with(version, "-fsyntax-only", tmp_path / "wrong.cpp")
    assert done.returncode != 0
    assert "getBindingName" in done.stderr


def test_it_runs_to_the_end(load: Load, frames: Path) -> None:
    code, out, err = load(frames)
    assert (code, out) == (0, "picture 0: class 2, 40\npicture 1: class 0, 40\n"), err
    assert err == "TensorRT: this is a STUB\n"


def test_a_plan_of_another_size(load: Load, plan: Path, frames: Path) -> None:
    size = plan.stat().st_size
    plan.write_bytes(plan.read_bytes()[:-7])
    code, _, err = load(frames)
    assert code == 4
    assert f"expected {size} bytes, found {size - 7}: copied incompletely?" in err
    assert "STUB" not in err  # TensorRT never saw it


def test_a_plan_of_another_tensorrt(load: Load, version: str, frames: Path) -> None:
    code, _, err = load(frames, version="10.7.0")
    assert code == 4
    assert re.search(r"built by TensorRT \d+\.\d+\.\d+, here is 10\.7\.0", err)


def test_a_version_compatible_plan_is_left_to_tensorrt(load: Load, plan: Path, frames: Path) -> None:
    sidecar = plan.with_suffix(".json")
    sidecar.write_text(
        sidecar.read_text().replace('"version_compatible": false', '"version_compatible": true')
    )
    assert load(frames, version="10.7.0")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: re.sub(r'"schema_version": \d+', '"schema_version": 99', text), "newer tofe-export"),
        (lambda text: text.replace('"plan_bytes"', '"bytes"'), 'has no "plan_bytes"'),
        (lambda text: text[: text.index('"tensorrt":') + 11], 'ends after "tensorrt"'),
        (
            lambda text: re.sub(r'"tensorrt": "[^"]*"', '"tensorrt": "new"', text),
            "expected a TensorRT version",
        ),
    ],
)
def test_a_damaged_sidecar(
    change: Callable[[str], str], said: str, load: Load, plan: Path, frames: Path
) -> None:
    sidecar = plan.with_suffix(".json")
    sidecar.write_text(change(sidecar.read_text()))
    code, _, err = load(frames)
    assert code == 4
    assert said in err


def test_files_that_are_not_there(load: Load, plan: Path, frames: Path, tmp_path: Path) -> None:
    assert load(tmp_path / "none.raw")[0] == 3
    plan.with_suffix(".json").unlink()
    code, _, err = load(frames)
    assert (code, "expected a file that can be read" in err) == (4, True)


@pytest.mark.parametrize(
    ("size", "said"), [(13, "expected whole pictures of 12 bytes, found 13"), (0, "found 0"), (60, "profile")]
)
def test_inputs_that_do_not_fit(size: int, said: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "wrong.raw").write_bytes(bytes(size))
    code, _, err = load(tmp_path / "wrong.raw")
    assert code == 3
    assert said in err


def test_usage(program: Callable[[str], Path]) -> None:
    done = subprocess.run([program("10.7.0")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)


def test_the_compile_line_is_documented() -> None:
    (line,) = re.findall(r"^//     (g\+\+ .*)$", SOURCE.read_text(), re.MULTILINE)
    assert line in (ROOT / "docs" / "tensorrt.md").read_text()
