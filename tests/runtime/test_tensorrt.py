"""Engines as Sessions, on a FAKE TensorRT: types, sizes, memory, failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fake_tensorrt
import numpy as np
import pytest
import tiny_bundle
from click.testing import CliRunner

from tofe_export.bundle import Bundle
from tofe_export.cli import main
from tofe_export.errors import BundleError, InputError, MissingBackend
from tofe_export.runtime.batching import run_all
from tofe_export.runtime.session import Array, Session
from tofe_export.runtime.tensorrt import TensorRtSession, open_engine

REDUCED = "0.01g-scatter-fp32-b1"

Install = Callable[[str], fake_tensorrt.FakeModule]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    return lambda version: fake_tensorrt.install(monkeypatch, version)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle.write_bundle(tmp_path / "bundle", ("fp32",), dynamic=True))


def build(bundle: Bundle, *options: str) -> None:
    result = CliRunner().invoke(main, ["trt", str(bundle.path), "--quiet", *options])
    assert result.exit_code == 0, result.output


def opened(bundle: Bundle, name: str = REDUCED, cuda_graph: bool = False) -> TensorRtSession:
    return open_engine(bundle, bundle.variant(name), cuda_graph=cuda_graph)


def images(bundle: Bundle, count: int = 1) -> Array:
    return bundle.reference().images[:count]


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_an_engine_answers_as_its_graph_does(version: str, install: Install, bundle: Bundle) -> None:
    install(version)
    build(bundle, "--variant", REDUCED)
    with Session.open(bundle, REDUCED, "tensorrt") as engine, Session.open(bundle, REDUCED) as graph:
        assert engine.provider == "tensorrt"
        assert {name: str(info) for name, info in engine.inputs.items()} == {
            name: str(info) for name, info in graph.inputs.items()
        }
        for image in images(bundle, 3):
            feeds = {"images": image[None]}
            np.testing.assert_array_equal(engine.infer(feeds)["logits"], graph.infer(feeds)["logits"])


@pytest.mark.parametrize(("version", "dtype"), [("8.6", "int32"), ("10.3", "int64"), ("11.4", "int64")])
def test_types_are_the_engines_own(version: str, dtype: str, install: Install, bundle: Bundle) -> None:
    install(version)
    build(bundle, "--variant", REDUCED, "--probe")
    with Session.open(bundle, REDUCED, "tensorrt", probe=True) as probe:
        assert probe.inputs["force_1"].dtype == np.dtype(dtype)
        assert probe.inputs["use_force"].dtype == np.dtype(bool)
        force = np.arange(tiny_bundle.KEEP, dtype=dtype)[None]
        feeds = {"images": images(bundle), "force_1": force, "use_force": np.array([True])}
        outputs = probe.infer(feeds)
        np.testing.assert_array_equal(outputs["kept_1"], force)
        assert outputs["kept_1"].dtype == np.dtype(dtype)
        with pytest.raises(InputError, match="expected force_1"):
            probe.infer({**feeds, "force_1": force.astype("int16")})


def test_everything_is_given_back(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    session = opened(bundle, cuda_graph=True)
    session.infer({"images": images(bundle)})
    assert {kind for kind, _ in trt.cudart.live.values()} == {"device", "host", "stream", "executable"}
    session.close()
    session.close()
    assert trt.cudart.live == {}
    with pytest.raises(ValueError, match="the session is closed"):
        session.infer({"images": images(bundle)})


def test_a_cuda_graph_gives_the_same(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    with opened(bundle) as plain, opened(bundle, cuda_graph=True) as recorded:
        for image in images(bundle, 3):
            feeds = {"images": image[None]}
            np.testing.assert_array_equal(plain.infer(feeds)["logits"], recorded.infer(feeds)["logits"])
    assert trt.cudart.calls.count("cudaStreamBeginCapture") == 1
    assert trt.cudart.calls.count("cudaGraphLaunch") == 3


def test_launch_runs_again_on_what_was_sent(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    with opened(bundle) as session:
        session.infer({"images": images(bundle)})
        copies = trt.cudart.calls.count("cudaMemcpyAsync")
        session.launch()
        session.cuda.synchronize(session.stream)
        assert trt.cudart.calls.count("cudaMemcpyAsync") == copies


def test_a_dynamic_batch_keeps_to_its_profile(install: Install, bundle: Bundle) -> None:
    install("10.13")
    build(bundle, "--variant", tiny_bundle.DYNAMIC, "--profile", "2,2,3")
    pictures = images(bundle, 3)
    with opened(bundle, tiny_bundle.DYNAMIC, cuda_graph=True) as session:
        assert session.batches == (2, 3)
        assert session.inputs["images"].shape == ("batch", 3, 8, 8)
        three = session.infer({"images": pictures})["logits"]
        two = session.infer({"images": pictures[:2]})["logits"]
        np.testing.assert_allclose(three[:2], two, rtol=1e-6)
        with pytest.raises(InputError, match=r"expected images from \(2, 3, 8, 8\) to \(3, 3, 8, 8\), found"):
            session.infer({"images": pictures[:1]})
        np.testing.assert_allclose(run_all(session, pictures[:1])["logits"], three[:1], rtol=1e-6)
        five = np.concatenate([pictures, pictures[:2]])
        assert run_all(session, five, batch=2)["logits"].shape == (5, 3)


def test_a_missing_engine_says_what_to_do(install: Install, bundle: Bundle) -> None:
    install("10.3")
    with pytest.raises(
        MissingBackend, match=f"has no engine of {REDUCED} for TensorRT 10.3.*none was built.*trt"
    ):
        opened(bundle)


def test_a_plan_that_tensorrt_refuses(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    trt.script.refuse_plan = ["FAKE refusal: expecting compute 8.9 got compute 8.7, please rebuild."]
    with pytest.raises(BundleError, match=r"another kind of GPU.*\n.*FAKE refusal"):
        opened(bundle)
    assert trt.cudart.live == {}


def test_no_memory_for_a_context(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    trt.script.no_context = ["FAKE: out of memory"]
    with pytest.raises(MissingBackend, match=r"cannot prepare.*too little free memory"):
        opened(bundle)


def test_no_memory_for_a_buffer_gives_the_others_back(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    trt.cudart.fail["cudaMallocHost"] = 2
    with pytest.raises(MissingBackend, match="pinned memory: out of memory"):
        opened(bundle)
    assert trt.cudart.live == {}


def test_a_run_that_fails(install: Install, bundle: Bundle) -> None:
    trt = install("8.6")
    build(bundle, "--variant", REDUCED)
    with opened(bundle) as session:
        trt.script.run_errors = ["FAKE failure of a kernel"]
        with pytest.raises(InputError, match=r"could not run.*(.|\n)*FAKE failure of a kernel"):
            session.infer({"images": images(bundle)})
        done = trt.cudart.calls
        assert done[::-1].index("cudaStreamSynchronize") < done[::-1].index("cudaMemcpyAsync")


def test_the_device_is_waited_for_before_memory_goes(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    session = opened(bundle)
    session.infer({"images": images(bundle)})
    session.launch()
    trt.cudart.calls.clear()
    session.close()
    first, *rest = trt.cudart.calls
    assert first == "cudaStreamSynchronize"
    assert {"cudaStreamDestroy", "cudaFree", "cudaFreeHost"} == set(rest)
    with pytest.raises(ValueError, match="the session is closed"):
        session.launch()


def test_a_broken_device_is_named_by_what_failed_first(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    session = opened(bundle)
    names = ("cudaStreamSynchronize", "cudaStreamDestroy", "cudaFree", "cudaFreeHost")
    trt.cudart.fail |= dict.fromkeys(names, 700)  # an illegal address: every later call fails too
    with pytest.raises(MissingBackend, match="waiting for the device: unknown error"), session:
        session.infer({"images": images(bundle)})
    trt.cudart.fail.clear()
    trt.cudart.fail |= {"cudaMallocHost": 2, "cudaStreamDestroy": 700}
    with pytest.raises(MissingBackend, match="pinned memory: out of memory"):
        opened(bundle)


def test_what_can_be_given_back_is(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    session = opened(bundle, cuda_graph=True)
    session.infer({"images": images(bundle)})
    trt.cudart.fail["cudaFree"] = 1
    with pytest.raises(MissingBackend, match="freeing device memory"):
        session.close()
    assert {kind for kind, _ in trt.cudart.live.values()} == {"device"}
    session.close()


def test_a_graph_that_cannot_be_recorded(install: Install, bundle: Bundle) -> None:
    trt = install("10.3")
    build(bundle, "--variant", REDUCED)
    with opened(bundle, cuda_graph=True) as session:
        trt.script.capture_errors = ["FAKE: this operation is not permitted when the stream is capturing"]
        with pytest.raises(InputError, match=r"could not run.*(.|\n)*not permitted"):
            session.infer({"images": images(bundle)})
        assert not trt.cudart.is_recording(session.stream)
        assert "graph" not in {kind for kind, _ in trt.cudart.live.values()}
        trt.script.capture_errors = []
        assert session.infer({"images": images(bundle)})["logits"].shape == (1, 3)
    assert trt.cudart.live == {}


def test_a_shape_that_was_refused_is_not_taken_for_set(install: Install, bundle: Bundle) -> None:
    trt = install("10.13")
    build(bundle, "--variant", tiny_bundle.DYNAMIC, "--profile", "1,2,3")
    pictures = images(bundle, 3)
    with opened(bundle, tiny_bundle.DYNAMIC) as session:
        right = session.infer({"images": pictures})["logits"]
        trt.script.shape_errors = ["FAKE refusal of a shape"]
        with pytest.raises(InputError, match=r"takes no images of \(2, 3, 8, 8\)(.|\n)*FAKE refusal"):
            session.infer({"images": pictures[:2]})
        trt.script.shape_errors = []
        np.testing.assert_array_equal(session.infer({"images": pictures})["logits"], right)
