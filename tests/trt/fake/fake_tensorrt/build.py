"""The building part of the FAKE: logger, configuration, builder.

Each class says what its members do in any version; `inventory.make_class` keeps those that a version has. The
builder makes no kernels: a plan is NVIDIA's header, the word FAKE, the facts of the build as JSON, and the
ONNX graph with its weights inside.
"""

from __future__ import annotations

import _thread
import json
import struct
import time
from typing import Any

from fake_tensorrt.network import type_name

MAGIC = 0x74727466
WAIT = 5.0  # seconds until a build that should have been stopped is given up


class ILogger:
    def __init__(self) -> None:
        pass

    def log(self, severity: object, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        pass

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class IHostMemory:
    _data: bytes

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return self._data


class ITimingCache:
    _data: bytes

    def serialize(self) -> Any:
        return self._fake.new("IHostMemory", data=self._data)  # type: ignore[attr-defined]


class IOptimizationProfile:
    _shapes: dict[str, Any]

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IBuilderConfig:
    _fake: Any
    _flags: set[Any]
    _profiles: list[Any]
    _cache: Any
    _verbosity: Any
    _monitor: Any
    _level: int

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert isinstance(pool, self._fake.MemoryPoolType), pool

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        object.__setattr__(self, "_level", value)

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        object.__setattr__(self, "_verbosity", value)

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        assert isinstance(value, self._fake.IProgressMonitor), value
        object.__setattr__(self, "_monitor", value)

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, self._fake.BuilderFlag), flag
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        assert isinstance(flag, self._fake.BuilderFlag), flag
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self._fake.new("ITimingCache", data=bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        mine = cache._data in (b"", self._timings())
        if mine or ignore_mismatch:
            object.__setattr__(self, "_cache", cache)
        return mine or ignore_mismatch

    def get_timing_cache(self) -> Any:
        return self._cache

    def _timings(self) -> bytes:
        return f"FAKE timings of {self._fake.gpu} {self._fake.__version__}".encode()

    def _names(self) -> set[str]:
        return {str(flag).rpartition(".")[2] for flag in self._flags}


class Builder:
    _fake: Any

    def __init__(self, logger: Any) -> None:
        self._fake.keep_logger(logger)

    def create_network(self, flags: int = 0) -> Any:
        return self._fake.new("INetworkDefinition", flags=flags, network=None, layers=[], inputs=[])

    def create_builder_config(self) -> Any:
        fake = self._fake
        state: dict[str, Any] = {"profiles": [], "cache": None, "monitor": None, "level": 3}
        verbosity = fake.ProfilingVerbosity.LAYER_NAMES_ONLY
        return fake.new("IBuilderConfig", flags={fake.BuilderFlag.TF32}, verbosity=verbosity, **state)

    def create_optimization_profile(self) -> Any:
        return self._fake.new("IOptimizationProfile", shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        fake = self._fake
        for line in fake.script.build_errors:
            fake.log("ERROR", line)
        if fake.script.build_errors or not _carry_on(fake, config):
            return None
        if any(-1 in tensor.shape for tensor in network._inputs) and not config._profiles:
            fake.log("ERROR", "Network has dynamic or shape inputs, but no optimization profile was defined.")
            return None
        object.__setattr__(config, "_cache", fake.new("ITimingCache", data=config._timings()))
        fake.built += 1
        return fake.new("IHostMemory", data=_plan(fake, network, config))


def _carry_on(fake: Any, config: Any) -> bool:
    """Go through the steps, and say whether nobody wants to stop."""
    monitor = config._monitor
    if fake.script.interrupt:
        time.sleep(0.3)  # until the main thread waits
        _thread.interrupt_main()
    if monitor is None:
        time.sleep(0.5 if fake.script.interrupt else 0.0)  # 8.6 cannot be stopped
        return True
    deadline = time.monotonic() + (WAIT if fake.script.interrupt else 0.0)
    monitor.phase_start("FAKE build", "", 2)
    going = bool(monitor.step_complete("FAKE build", 0))
    while going and time.monotonic() < deadline:
        time.sleep(0.02)
        going = bool(monitor.step_complete("FAKE build", 1))
    monitor.phase_finish("FAKE build")
    return going


def _plan(fake: Any, network: Any, config: Any) -> bytes:
    """The bytes of a plan: header as NVIDIA's sample reads it, FAKE, facts, graph."""
    flags = config._names()
    facts = {
        "gpu": fake.gpu,
        "capability": [fake.cudart.attribute(75), fake.cudart.attribute(76)],
        "version": list(fake.numbers()),
        "flags": sorted(flags),
        "detailed": str(config._verbosity).endswith("DETAILED"),
        "profile": config._profiles[0] if config._profiles else {},
        "layers": [_facts(fake, layer, flags) for layer in network._layers],
        "graph_bytes": len(network._network.model),
    }
    text = json.dumps(facts).encode()
    header = struct.pack("<II", MAGIC, 0) + bytes(16) + bytes([*fake.numbers(), 0])
    graph: bytes = network._network.model
    return header + b"FAKE" + struct.pack("<I", len(text)) + text + graph


def _facts(fake: Any, layer: Any, flags: set[str]) -> dict[str, Any]:
    """A layer as the engine will have it: FP16 changes the float32 ones that nothing holds.

    An engine that ignores its precision, a strongly typed one included, is float32 throughout.
    """
    ignored = fake.script.ignore_precision
    allowed = "FP16" in flags and not layer._strong
    half = allowed and layer._precision is None and layer._kind != "CONSTANT"

    def shown(tensor: Any, held: Any = None) -> str:
        name = type_name(fake, tensor._elem)
        if ignored:
            return "FLOAT" if name in ("HALF", "BF16", "INT8") else name
        return "HALF" if half and name == "FLOAT" and held is None else name

    return {
        "name": layer._name,
        "kind": layer._kind,
        "inputs": [[tensor._name, shown(tensor)] for tensor in layer._inputs if tensor is not None],
        "outputs": [
            [tensor._name, shown(tensor, layer._held.get(i))] for i, tensor in enumerate(layer._outputs)
        ],
    }
