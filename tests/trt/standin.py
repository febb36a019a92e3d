"""A stand-in for TensorRT that does what a script says, for tests of the builder around it.

Nothing is computed: a plan is a header and a name. Which names exist in which version is not this file's
business, see test_api_contract.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VERSION_BYTES = (10, 3, 0, 26)


def plan_bytes(body: bytes = b"FAKE", version: tuple[int, ...] = VERSION_BYTES) -> bytes:
    return struct.pack("<II", 0x74727466, 0) + bytes(16) + bytes(version) + body


class Tensor:
    is_shape_tensor = False

    def __init__(self, name: str, dtype: str = "FLOAT", shape: tuple[int, ...] = (1, 4)) -> None:
        self.name, self.dtype, self.shape = name, f"DataType.{dtype}", shape


class Layer:
    def __init__(
        self, name: str, reads: list[Tensor | None], makes: list[Tensor], kind: str = "ELEMENTWISE"
    ) -> None:
        self.name, self.type, self.precision = name, f"LayerType.{kind}", None
        self.reads, self.makes = reads, makes
        self.output_types: dict[int, str] = {}
        self.num_inputs, self.num_outputs = len(reads), len(makes)

    def get_input(self, index: int) -> Tensor | None:
        return self.reads[index]

    def get_output(self, index: int) -> Tensor:
        return self.makes[index]

    def set_output_type(self, index: int, dtype: str) -> None:
        self.output_types[index] = dtype


class Network:
    def __init__(self, layers: list[Layer], inputs: list[Tensor] | None = None) -> None:
        self.layers, self.inputs = layers, inputs or [Tensor("images", shape=(1, 3, 8, 8))]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


@dataclass
class Script:
    """What the stand-in answers, and what it was told."""

    layers: Callable[[], list[Layer]] = lambda: selection("HALF")
    inputs: list[Tensor] | None = None
    parses: bool = True
    plan: bytes | None = field(default_factory=plan_bytes)
    lines: list[tuple[str, str]] = field(default_factory=list)
    information: str = json.dumps({"Layers": [{"Name": "a", "Outputs": [{"Format/Datatype": "Half"}]}]})
    output: tuple[str, str] = ("logits", "FLOAT")
    loads: bool = True
    cache_fits: bool = True
    profile_index: int = 0
    during_build: Callable[[Any], None] = lambda config: None
    told: dict[str, Any] = field(default_factory=dict)


def selection(dtype: str = "FLOAT") -> list[Layer]:
    """images -> block (of `dtype`) -> selector -> TopK."""
    images, tokens = Tensor("images", shape=(1, 3, 8, 8)), Tensor("tokens", dtype)
    scores, values, kept = Tensor("scores_1"), Tensor("v"), Tensor("kept", "INT32")
    return [
        Layer("block/MatMul", [images], [tokens]),
        Layer("selector/MatMul", [tokens], [scores]),
        Layer("stage1/TopK", [scores, Tensor("k", "INT32")], [values, kept], "TOPK"),
        Layer("head", [tokens, kept], [Tensor("logits", dtype)]),
    ]


def module(api: Any, script: Script) -> Any:
    """Give a module of names (conftest's `api_module`) the behaviour of the script."""
    told = script.told

    class Config:
        def __init__(self) -> None:
            self.flags: set[str] = set()
            self.cleared: set[str] = set()
            self.cache: bytes | None = None
            told["config"] = self

        def set_flag(self, flag: str) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: str) -> None:
            self.cleared.add(flag)

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            told["pool"] = (pool, size)

        def create_timing_cache(self, data: bytes) -> Any:
            return SimpleNamespace(data=data, serialize=lambda: data + b"+")

        def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
            if cache.data and not script.cache_fits:
                return False
            self.cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self.cache

        def add_optimization_profile(self, profile: Any) -> int:
            return script.profile_index

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            told["flags"] = flags
            told["network"] = Network(script.layers(), script.inputs)
            return told["network"]  # type: ignore[no-any-return]

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            return SimpleNamespace(set_shape=lambda name, *shapes: told.update({name: shapes}))

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            for severity, text in script.lines:
                self.logger.log(f"Severity.{severity}", text)
            script.during_build(config)
            return script.plan

    class Parser:
        num_errors = 1

        def __init__(self, network: Network, logger: Any) -> None: ...

        def parse_from_file(self, path: str) -> bool:
            told["parsed"] = Path(path).name
            return script.parses

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(
                node=lambda: 7,
                desc=lambda: "No importer registered for op: Unique",
                node_name=lambda: "blocks.0/Unique",
                node_operator=lambda: "Unique",
            )

    engine = SimpleNamespace(
        num_io_tensors=1,
        get_tensor_name=lambda index: script.output[0],
        get_tensor_dtype=lambda name: f"DataType.{script.output[1]}",
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: script.information),
    )

    class Runtime:
        def __init__(self, logger: Any) -> None:
            told["runtime"] = self

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return engine if script.loads else None

    api.Builder, api.OnnxParser, api.Runtime = Builder, Parser, Runtime
    api.NetworkDefinitionCreationFlag.EXPLICIT_BATCH = 0
    if hasattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        api.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    return api
