"""The running part of the FAKE: plans are loaded, and compute through ONNX Runtime."""

from __future__ import annotations

import ctypes
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from fake_tensorrt.build import MAGIC
from fake_tensorrt.network import without_bf16

Array = npt.NDArray[np.generic]

ORT_TYPES = {
    "tensor(float)": ("FLOAT", "float32"),
    "tensor(float16)": ("HALF", "float16"),
    "tensor(int64)": ("INT64", "int64"),
    "tensor(int32)": ("INT32", "int32"),
    "tensor(uint8)": ("UINT8", "uint8"),
    "tensor(bool)": ("BOOL", "bool"),
}


@dataclass(frozen=True)
class Port:
    """A tensor that goes in or out: its type for ONNX Runtime and for TensorRT, which 8.x narrows."""

    name: str
    shape: tuple[int, ...]
    is_input: bool
    trt_type: str
    outside: np.dtype[np.generic]
    inside: np.dtype[np.generic]


class Runtime:
    _fake: Any

    def __init__(self, logger: Any) -> None:
        self._fake.keep_logger(logger)
        self._allowed = False

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._allowed

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        object.__setattr__(self, "_allowed", value)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        fake = self._fake
        for line in fake.script.refuse_plan or self._faults(serialized_engine):
            fake.log("ERROR", line)
            return None
        facts, model = _split(serialized_engine)
        model = without_bf16(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            without_bf16(model), options, providers=["CPUExecutionProvider"]
        )
        return fake.new("ICudaEngine", facts=facts, session=session, ports=_ports(fake, session))

    def _faults(self, plan: bytes) -> list[str]:
        """Why TensorRT would not load it, in its words."""
        if len(plan) < 32 or struct.unpack("<I", plan[:4])[0] != MAGIC or plan[28:32] != b"FAKE":
            return [
                "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
            ]
        here, made = list(self._fake.numbers()), list(plan[24:27])
        if len(plan) < 36 + struct.unpack("<I", plan[32:36])[0]:
            return ["Error Code 1: Serialization (FAKE: the plan ends early)"]
        facts, graph = _split(plan)
        if len(graph) < facts["graph_bytes"]:
            return ["Error Code 1: Serialization (FAKE: the plan ends early)"]
        if made != here and not ("VERSION_COMPATIBLE" in facts["flags"] and made <= here):
            return [
                "The engine plan file is not compatible with this version of TensorRT, expecting library "
                f"version {here} got {made}, please rebuild."
            ]
        if "VERSION_COMPATIBLE" in facts["flags"] and not self._allowed:
            return ["Plan carries a lean runtime; engine_host_code_allowed is false"]
        expected = [self._fake.cudart.attribute(75), self._fake.cudart.attribute(76)]
        if facts["capability"] != expected:
            return [
                "The engine plan file is generated on an incompatible device, expecting compute "
                f"{expected} got compute {facts['capability']}, please rebuild."
            ]
        return []


class ICudaEngine:
    _fake: Any
    _facts: dict[str, Any]
    _session: Any
    _ports: list[Port]

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    def get_tensor_name(self, index: int) -> str:
        return self._ports[index].name

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._fake.TensorIOMode
        return mode.INPUT if self._port(name).is_input else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._fake.DataType, self._port(name).trt_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._port(name).shape

    def get_tensor_location(self, name: str) -> Any:
        return self._fake.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [tuple(shape) for shape in self._facts["profile"][name]]

    def create_execution_context(self) -> Any:
        for line in self._fake.script.no_context:
            self._fake.log("ERROR", line)
            return None
        return self._fake.new("IExecutionContext", engine=self, shapes={}, addresses={})

    def create_engine_inspector(self) -> Any:
        return self._fake.new("EngineInspector", engine=self)

    def _port(self, name: str) -> Port:
        return next(port for port in self._ports if port.name == name)


class IExecutionContext:
    _fake: Any
    _engine: Any
    _shapes: dict[str, tuple[int, ...]]
    _addresses: dict[str, int]

    @property
    def profiler(self) -> Any:
        return getattr(self, "_profiler", None)

    @profiler.setter
    def profiler(self, value: Any) -> None:
        if not isinstance(value, self._fake.IProfiler):
            raise TypeError(f"FAKE TensorRT expected an IProfiler, found {value!r}")
        object.__setattr__(self, "_profiler", value)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        for line in self._fake.script.shape_errors:
            self._fake.log("ERROR", line)
            self._shapes.clear()
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        port = self._engine._port(name)
        if port.is_input or -1 not in port.shape:
            return self._shapes.get(name, port.shape)  # type: ignore[no-any-return]  # a port's is a tuple
        batch = next(shape[0] for shape in self._shapes.values())
        return tuple(batch if size == -1 else size for size in port.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._fake.cudart.holds(memory, 1, "device")  # type: ignore[no-any-return]

    def execute_async_v3(self, stream_handle: int) -> bool:
        recorded = self._fake.cudart.is_recording(stream_handle)
        for line in (self._fake.script.capture_errors if recorded else []) or self._fake.script.run_errors:
            self._fake.log("ERROR", line)
            return False
        return bool(self._fake.cudart.submit(stream_handle, self._compute))

    def _compute(self) -> None:
        engine = self._engine
        ports: list[Port] = engine._ports
        feeds = {port.name: self._read(port).astype(port.inside) for port in ports if port.is_input}
        outputs = [port for port in ports if not port.is_input]
        found = engine._session.run([port.name for port in outputs], feeds)
        found = [np.ascontiguousarray(value) for value in found]
        self._fake.script.spoil(found)
        for port, value in zip(outputs, found, strict=True):
            array = np.ascontiguousarray(value.astype(port.outside))
            assert self._fake.cudart.holds(self._addresses[port.name], array.nbytes, "device"), port
            ctypes.memmove(self._addresses[port.name], array.ctypes.data, array.nbytes)
        if self.profiler is not None:
            for layer in engine._facts["layers"]:
                self.profiler.report_layer_time(layer["name"], 0.25)

    def _read(self, port: Port) -> Array:
        shape = self.get_tensor_shape(port.name)
        size = math.prod(shape) * port.outside.itemsize
        address = self._addresses[port.name]
        assert self._fake.cudart.holds(address, size, "device"), port
        return np.frombuffer(ctypes.string_at(address, size), port.outside).reshape(shape)


class EngineInspector:
    _fake: Any
    _engine: Any

    def get_engine_information(self, format: Any) -> str:
        assert str(format).endswith("JSON"), format
        facts = self._engine._facts
        newest = self._fake.numbers()[0] >= 11
        layers: list[Any] = [_layer(layer, newest) for layer in facts["layers"]]
        if not facts["detailed"]:
            layers = [layer["Name"] for layer in layers]
        names = [port.name for port in self._engine._ports]
        ends: dict[str, Any] = (
            {"I/O Tensors": [{"Name": name} for name in names]} if newest else {"Bindings": names}
        )
        return json.dumps({"FAKE": True, "Layers": layers, **ends})


def _layer(layer: dict[str, Any], newest: bool) -> dict[str, Any]:
    return {
        "Name": layer["name"],
        "LayerType": layer["kind"].capitalize(),
        "Inputs": [_tensor(name, dtype, newest) for name, dtype in layer["inputs"]],
        "Outputs": [_tensor(name, dtype, newest) for name, dtype in layer["outputs"]],
        "TacticName": "FAKE",
    }


def _tensor(name: str, dtype: str, newest: bool) -> dict[str, Any]:
    shown = {"FLOAT": "Float", "HALF": "Half", "INT32": "Int32", "INT64": "Int64"}.get(dtype, dtype)
    kind = {"Format": "Row major linear", "Datatype": shown} if newest else {"Format/Datatype": shown}
    return {"Name": name, "Location": "Device", "Dimensions": [], **kind}


def _split(plan: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<I", plan[32:36])
    return json.loads(plan[36 : 36 + size]), plan[36 + size :]


def _ports(fake: Any, session: Any) -> list[Port]:
    return [
        _port(fake, node, is_input)
        for is_input, nodes in ((True, session.get_inputs()), (False, session.get_outputs()))
        for node in nodes
    ]


def _port(fake: Any, node: Any, is_input: bool) -> Port:
    trt_type, numpy_type = ORT_TYPES[node.type]
    inside = outside = np.dtype(numpy_type)
    if trt_type == "INT64" and not hasattr(fake.DataType, "INT64"):
        trt_type, outside = "INT32", np.dtype("int32")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return Port(node.name, shape, is_input, trt_type, outside, inside)
