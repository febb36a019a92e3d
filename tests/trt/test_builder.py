"""From a job to a plan, with a TensorRT that does what a script says, and every way it can fail."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BuildFailed, PrecisionError, UsageError
from tofe_export.files import sha256_bytes
from tofe_export.trt.builder import Outcome, build
from tofe_export.trt.monitor import LeftRunning, Stage, progress_monitor, run_stoppable
from tofe_export.trt.network import create_network
from tofe_export.trt.platform import Platform
from tofe_export.trt.request import BuildOptions, make_job

FP16, FP32 = "2.00g-scatter-fp16-b1", "2.00g-scatter-fp32-b1"
MakePlatform = Callable[..., Platform]
ALL = ("8.6", "10.3", "10.13", "11.4")


@pytest.fixture
def run(typed_bundle: Bundle, make_platform: MakePlatform) -> Callable[..., Outcome]:
    """Build a variant on a version with a script."""

    def go(
        script: Any, version: str = "10.3", name: str = FP16, cache: bytes = b"", **options: Any
    ) -> Outcome:
        platform = make_platform(version, script)
        probe = options.pop("probe", False)
        job = make_job(
            typed_bundle, typed_bundle.variant(name), platform.features, BuildOptions(**options), probe
        )
        return build(typed_bundle, job, platform, cache)

    return go


@pytest.mark.parametrize(
    ("version", "typing", "flags", "parsed", "config"),
    [
        ("8.6", "weak", 1, FP32, {"BuilderFlag.FP16", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"}),
        ("10.3", "strong", 2, FP16, set()),
        ("10.13", "strong", 2, FP16, set()),
        ("11.4", "strong", 2, FP16, set()),
    ],
)
def test_half_precision_on_each_version(
    run: Any, standin: Any, version: str, typing: str, flags: int, parsed: str, config: set[str]
) -> None:
    script = standin.Script()
    facts = run(script, version).built.sidecar
    assert (facts.typing, facts.precision, facts.verdict) == (typing, "fp16", "honoured")
    assert script.told["flags"] == flags
    assert script.told["parsed"] == f"{parsed}.onnx"
    assert script.told["config"].flags == config
    assert script.told["config"].cleared == {"BuilderFlag.TF32"}
    assert facts.flags[0] == "-TF32"
    assert (facts.twin, facts.held_float32) == ((FP32, 2) if version == "8.6" else (None, 0))


@pytest.mark.parametrize("version", ALL)
def test_float32_on_each_version(run: Any, standin: Any, version: str) -> None:
    information = json.dumps({"Layers": [{"Outputs": [{"Format/Datatype": "Float"}]}]})
    script = standin.Script(layers=standin.selection, information=information)
    facts = run(script, version, FP32).built.sidecar
    assert facts.typing == ("float32" if version == "8.6" else "strong")
    assert script.told["config"].flags == set()
    assert "BuilderFlag.TF32" in script.told["config"].cleared
    assert facts.network == {"fp32": 4}


def test_the_sidecar_tells_what_was_built(run: Any, standin: Any, typed_bundle: Bundle) -> None:
    outcome = run(standin.Script(), workspace_mib=512, opt_level=5, version_compatible=True)
    facts, variant = outcome.built.sidecar, typed_bundle.variant(FP16)
    assert facts.plan == f"{FP16}.jetson-orin-nano.10.3.0.plan"
    assert (facts.plan_bytes, facts.plan_sha256) == (
        len(outcome.built.plan),
        sha256_bytes(outcome.built.plan),
    )
    assert facts.plan_version == (10, 3, 0, 26)
    assert (facts.graph.file, facts.graph.sha256) == (variant.file, variant.sha256)
    assert facts.options == BuildOptions(512, 5, None, True)
    assert facts.flags == ("-TF32", "STRONGLY_TYPED", "VERSION_COMPATIBLE")
    assert facts.network == {"fp16": 2, "fp32": 2}
    assert facts.layers.counts == {"fp16": 1}
    assert facts.seconds >= 0


def test_options_reach_tensorrt(run: Any, standin: Any) -> None:
    script = standin.Script()
    run(script, workspace_mib=512, opt_level=5, version_compatible=True)
    config = script.told["config"]
    assert script.told["pool"] == ("MemoryPoolType.WORKSPACE", 512 << 20)
    assert config.builder_optimization_level == 5
    assert config.flags == {"BuilderFlag.VERSION_COMPATIBLE"}
    assert config.profiling_verbosity == "ProfilingVerbosity.DETAILED"
    assert script.told["runtime"].engine_host_code_allowed is True
    plain = standin.Script()
    run(plain)
    assert "pool" not in plain.told
    assert not hasattr(plain.told["config"], "builder_optimization_level")
    assert not hasattr(plain.told["runtime"], "engine_host_code_allowed")


def test_a_probe_is_built_from_the_probe_graph(run: Any, standin: Any) -> None:
    script = standin.Script()
    facts = run(script, probe=True).built.sidecar
    assert (facts.probe, script.told["parsed"]) == (True, f"{FP16}.probe.onnx")
    assert facts.plan == f"{FP16}.probe.jetson-orin-nano.10.3.0.plan"


def test_a_dynamic_batch_gets_its_profile(
    typed_bundle: Bundle, make_platform: MakePlatform, standin: Any
) -> None:
    variant = replace(typed_bundle.variant(FP16), batch="dyn")
    inputs = [standin.Tensor("images", shape=(-1, 3, 8, 8)), standin.Tensor("use_force", "BOOL", (1,))]
    script = standin.Script(inputs=inputs)
    platform = make_platform("10.13", script)
    job = make_job(typed_bundle, variant, platform.features, BuildOptions(profile=(1, 4, 16)))
    assert build(typed_bundle, job, platform).built.sidecar.options.profile == (1, 4, 16)
    assert script.told["images"] == ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))
    assert "use_force" not in script.told
    script.profile_index = -1
    with pytest.raises(BuildFailed, match="takes no profile of the batches"):
        build(typed_bundle, job, platform)
    inputs[0].shape = (-1, 3, -1, -1)
    with pytest.raises(BuildFailed, match=r"input images.*at most the batch to be dynamic"):
        build(typed_bundle, job, platform)


def test_the_timing_cache_goes_on(run: Any, standin: Any) -> None:
    first = run(standin.Script())
    assert (first.timing_cache, first.built.sidecar.timing_cache) == (b"+", "empty")
    second = run(standin.Script(), cache=b"known")
    assert (second.timing_cache, second.built.sidecar.timing_cache) == (b"known+", "used")
    other = run(standin.Script(cache_fits=False), cache=b"known")
    assert other.timing_cache == b"+"
    assert other.built.sidecar.timing_cache == "of another device or TensorRT, not used"


def test_a_failed_build_tells_why(run: Any, standin: Any) -> None:
    lines = [
        (
            "WARNING",
            "Tactic Device request: 806MB Available: 187MB. Device memory is insufficient to use tactic.",
        ),
        ("ERROR", "Could not find any implementation for node {ForeignNode[a...b]}."),
    ]
    with pytest.raises(
        BuildFailed, match=f"could not build {FP16}. the device has too little free"
    ) as caught:
        run(standin.Script(plan=None, lines=lines))
    assert caught.value.exit_code == 6
    assert "TensorRT: Could not find any implementation" in str(caught.value)
    with pytest.raises(BuildFailed, match="TensorRT gave no reason"):
        run(standin.Script(plan=None))


@pytest.mark.parametrize(
    ("version", "where"), [("8.6", "node 7: No importer"), ("10.3", "Unique 'blocks.0/Unique': No importer")]
)
def test_a_parser_error_names_the_node(run: Any, standin: Any, version: str, where: str) -> None:
    with pytest.raises(BuildFailed, match=r"cannot read .*\.onnx. the parser does not know an op") as caught:
        run(standin.Script(parses=False), version)
    assert where in str(caught.value)


def test_no_builder_without_a_driver(
    run: Any, make_platform: MakePlatform, standin: Any, typed_bundle: Any
) -> None:
    platform = make_platform("8.6")

    def refuse(logger: Any) -> None:
        logger.log("Severity.WARNING", "CUDA initialization failure with error: 35")  # 8.6.0's severity
        raise TypeError("pybind11::init(): factory function returned nullptr")

    platform.trt.Builder = refuse
    job = make_job(typed_bundle, typed_bundle.variant(FP32), platform.features, BuildOptions())
    with pytest.raises(BuildFailed, match=r"makes no builder.*no NVIDIA driver, or it is older than this"):
        build(typed_bundle, job, platform)


def test_precision_that_did_not_happen(run: Any, standin: Any) -> None:
    float32 = json.dumps({"Layers": [{"Outputs": [{"Format/Datatype": "Float"}]}]})
    with pytest.raises(PrecisionError, match="fp16 was asked for and was not honoured"):
        run(standin.Script(information=float32), "8.6")
    with pytest.raises(PrecisionError, match="was not provable"):
        run(standin.Script(information='{"Layers": ["a"]}'), "8.6")


def test_a_graph_that_is_not_half_is_refused_before_it_is_built(run: Any, standin: Any) -> None:
    def fail(config: Any) -> None:
        pytest.fail("built")

    script = standin.Script(layers=standin.selection, during_build=fail)
    with pytest.raises(PrecisionError, match=r"The graph is not what its name says"):
        run(script, "11.4")


def test_a_selector_that_cannot_be_held(run: Any, standin: Any) -> None:
    def renamed() -> list[Any]:
        layers: list[Any] = standin.selection("HALF")
        layers[1].name = "other"
        return layers

    with pytest.raises(BuildFailed, match="cannot be held in float32"):
        run(standin.Script(layers=renamed), "8.6")
    run(standin.Script(layers=renamed), "10.3")


def test_a_plan_that_does_not_load_or_has_another_output(run: Any, standin: Any) -> None:
    with pytest.raises(BuildFailed, match="the plan does not load"):
        run(standin.Script(loads=False))
    with pytest.raises(
        BuildFailed, match=r"expected the output logits in float32, found logits DataType.HALF"
    ):
        run(standin.Script(output=("logits", "HALF")))
    with pytest.raises(BuildFailed, match="expected the output logits in float32, found tokens"):
        run(standin.Script(output=("tokens", "FLOAT")))


def test_warnings_come_with_the_engine(run: Any, standin: Any) -> None:
    assert run(standin.Script(lines=[("WARNING", "w"), ("INFO", "i")])).warnings == ["w"]


def test_strong_typing_where_there_is_none(make_platform: MakePlatform) -> None:
    platform = make_platform("8.6")
    with pytest.raises(PrecisionError, match=r"TensorRT 8.6.1 has no strongly typed networks"):
        create_network(platform.trt, platform.features, platform.trt.Builder(None), strong=True)


def interrupt() -> None:
    threading.Timer(0.35, signal.raise_signal, [signal.SIGINT]).start()


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_ctrl_c_stops_a_build_at_its_next_step(
    typed_bundle: Bundle, make_platform: MakePlatform, standin: Any, version: str
) -> None:
    steps = []

    def work(config: Any) -> None:
        config.progress_monitor.phase_start("Build", "", 400)
        for step in range(400):
            steps.append(step)
            if not config.progress_monitor.step_complete("Build", step):
                return
            time.sleep(0.01)

    platform = make_platform(version, standin.Script(during_build=work))
    job = make_job(typed_bundle, typed_bundle.variant(FP16), platform.features, BuildOptions())
    seen: list[str] = []
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        build(typed_bundle, job, platform, b"", seen.append, lambda: seen.append("stopping"))
    assert 0 < len(steps) < 200
    assert "stopping" in seen
    assert any(text.startswith("Build ") and "/400, 0 s" in text for text in seen)


def test_8_6_is_waited_for_and_a_second_ctrl_c_is_not() -> None:
    stage, ended = Stage(), threading.Event()

    def work() -> None:
        ended.wait(0.9)
        ended.set()

    interrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        run_stoppable(work, stage, lambda text: None, lambda: None)
    assert not isinstance(caught.value, LeftRunning)
    assert ended.is_set()
    assert stage.stop.is_set()

    release = threading.Event()
    interrupt()
    with pytest.raises(LeftRunning):
        run_stoppable(lambda: release.wait(30), Stage(), lambda text: None, interrupt)
    assert not release.is_set()
    release.set()


def test_work_gives_its_result_or_its_error() -> None:
    assert run_stoppable(lambda: 3, Stage(), lambda text: None, lambda: None) == 3
    with pytest.raises(BuildFailed, match="no"):
        run_stoppable(_fail, Stage(), lambda text: None, lambda: None)


def _fail() -> None:
    raise BuildFailed("no")


def test_8_6_has_no_progress_monitor(make_platform: MakePlatform) -> None:
    platform = make_platform("8.6")
    with pytest.raises(UsageError, match=r"TensorRT 8.6.1 reports no progress"):
        progress_monitor(platform.trt, platform.features, Stage())


def test_phases(make_platform: MakePlatform) -> None:
    platform, stage = make_platform("10.3"), Stage()
    monitor = progress_monitor(platform.trt, platform.features, stage)
    monitor.phase_start("Building Engine", "", 8)
    assert str(stage).startswith("Building Engine, ")
    assert monitor.step_complete("Building Engine", 2) is True
    assert str(stage).startswith("Building Engine 3/8, ")
    monitor.phase_finish("Building Engine")
    monitor.phase_finish("never started")
    stage.stop.set()
    assert monitor.step_complete("x", 0) is False
