"""TensorRT engines as Sessions: name-based I/O, the engine's own types, its own stream, pinned memory.

The plan is proven against its sidecar before TensorRT sees it. Types and sizes come from the engine and never
from the ONNX file: 8.6 narrows int64 inputs and outputs to int32. TensorRT reports failure by None or False
and a line in its log, so every answer is checked and the lines come with the error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, InputError, MissingBackend, TofeError
from tofe_export.manifest import Variant
from tofe_export.runtime.buffers import Buffer
from tofe_export.runtime.cuda import Cuda
from tofe_export.runtime.session import Array, Session, TensorInfo
from tofe_export.trt.api import Context, DataType, Engine, Inspector, Profiler, Runtime, Trt
from tofe_export.trt.engines import AGAIN, EngineFile, find_engine
from tofe_export.trt.explain import with_lines
from tofe_export.trt.log import logger_of
from tofe_export.trt.platform import Platform
from tofe_export.trt.profiler import profiler_of

BATCH = "batch"  # the name of an engine's one dynamic size
_SILENT = "TensorRT gave no reason"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """One input or output of an engine."""

    info: TensorInfo
    is_input: bool
    dynamic: bool  # an input whose shape must be set; from `smallest` to `largest`, which are the profile's
    smallest: Shape
    largest: Shape


def open_engine(
    bundle: Bundle, variant: Variant, probe: bool = False, cuda_graph: bool = False
) -> TensorRtSession:
    """The engine of a variant for this device, ready to run.

    Raises MissingBackend (no TensorRT, no GPU, no engine that fits, each with its reason) and BundleError (a
    plan that is not what its sidecar says, or that TensorRT refuses).
    """
    platform = Platform.here()
    engine = find_engine(bundle, variant, platform.device, platform.features, probe)
    return TensorRtSession(platform.trt, engine, cuda_graph)


class TensorRtSession(Session):
    """A loaded engine. `cuda_graph`: record its kernels once and start them all by one call.

    `cuda`, `stream` and `launch` are for measuring: `launch` runs the engine again on the inputs of the last
    `infer`, without copies.
    """

    def __init__(self, trt: Trt, engine: EngineFile, cuda_graph: bool = False) -> None:
        self.provider = "tensorrt"
        self.engine = engine
        plan = engine.load()
        self.cuda = Cuda()
        self._logger = logger_of(trt)
        self._graph: int | None = None
        self._use_graph = cuda_graph
        self._shapes: dict[str, Shape] = {}
        self._buffers: dict[str, Buffer] = {}
        self._stream: int | None = None
        self._context: Context = None
        self._loaded: Engine = None
        self._runtime: Runtime = None
        self._trt: Trt = trt
        self._profiler: Profiler = None
        try:
            self._load(trt, plan)
        except BaseException:
            with suppress(TofeError):  # of a device that is broken, what happened first is what counts
                self.close()
            raise

    @property
    def stream(self) -> int:
        """The CUDA stream that everything runs on. Raises ValueError once the session is closed."""
        if self._stream is None:
            raise ValueError("the session is closed")
        return self._stream

    def launch(self) -> None:
        """Put one run of the engine into the stream; needs one `infer` before. Raises InputError."""
        stream = self.stream
        if self._graph is not None:
            self.cuda.launch_graph(self._graph, stream)
        else:
            self._enqueue()

    def report_layers(self, report: Callable[[str, float], None]) -> None:
        """From now on, tell `report` the name and milliseconds of every layer after each run."""
        self._profiler = profiler_of(self._trt, report)  # TensorRT does not keep it alive
        self._context.profiler = self._profiler

    def layer_information(self) -> str:
        """What the engine says of its layers, as JSON."""
        inspector: Inspector = self._loaded.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Give device memory, stream and engine back, all of it whatever fails. Raises MissingBackend."""
        with ExitStack() as last_first:
            for buffer in self._buffers.values():
                last_first.callback(buffer.close)
            self._buffers = {}
            last_first.callback(self._unload)
            if self._stream is not None:
                last_first.callback(self.cuda.destroy_stream, self._stream)
                last_first.callback(self._forget_graph)
                last_first.callback(self.cuda.synchronize, self._stream)  # kernels may still use all of it
                self._stream = None

    def _unload(self) -> None:
        self._profiler = None
        self._context = None  # before the engine, which is before the runtime
        self._loaded = None
        self._runtime = None

    def _load(self, trt: Trt, plan: bytes) -> None:
        with self._logger.listening() as lines:
            runtime: Runtime = trt.Runtime(self._logger.handle)
            self._runtime = runtime
            if self.engine.sidecar.options.version_compatible:
                runtime.engine_host_code_allowed = True  # the lean runtime in a plan with our hash
            engine: Engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise BundleError(
                    with_lines(f"TensorRT refuses {self.engine.path}", lines.everything, f"{AGAIN} --force")
                )
            self._loaded = engine
            context: Context = engine.create_execution_context()
            if context is None:
                what = f"TensorRT cannot prepare {self.engine.path} to run"
                raise MissingBackend(with_lines(what, lines.everything, _SILENT))
            self._context = context
        self._ports = {port.info.name: port for port in _ports(trt, engine, self.engine)}
        self.inputs = {name: port.info for name, port in self._ports.items() if port.is_input}
        self.outputs = {name: port.info for name, port in self._ports.items() if not port.is_input}
        self.batches = _batches(self._ports)
        self._stream = self.cuda.create_stream()
        self._set_shapes({name: port.largest for name, port in self._ports.items() if port.is_input})
        for name, port in self._ports.items():
            self._buffers[name] = Buffer(self.cuda, port.info.dtype, self._shapes[name])
            if not context.set_tensor_address(name, self._buffers[name].device):
                raise BundleError(f"{self.engine.path}: TensorRT takes no memory for {name!r}: {AGAIN}")

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        stream = self.stream
        try:
            return self._run_in(stream, feeds)
        except BaseException:
            with suppress(TofeError):  # copies use the pinned memory until then
                self.cuda.synchronize(stream)
            raise

    def _run_in(self, stream: int, feeds: dict[str, Array]) -> dict[str, Array]:
        self._set_shapes({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            self._buffers[name].send(array, stream)
        if self._use_graph and self._graph is None:
            self._record()
        self.launch()
        for name in self.outputs:
            self._buffers[name].fetch(self._shapes[name], stream)
        self.cuda.synchronize(stream)
        return {name: self._buffers[name].read(self._shapes[name]) for name in self.outputs}

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        """Tell TensorRT the inputs' shapes and ask it for the outputs'. Raises InputError."""
        if all(self._shapes.get(name) == shape for name, shape in shapes.items()):
            return
        self._forget_graph()
        self._shapes = {}  # should one of them be refused, TensorRT holds a mixture
        context: Context = self._context
        with self._logger.listening() as lines:
            for name, shape in shapes.items():
                port = self._ports[name]
                self._require(port, shape)
                if port.dynamic and not context.set_input_shape(name, shape):
                    what = f"TensorRT takes no {name} of {shape}"
                    raise InputError(with_lines(what, lines.everything, _SILENT))
        made = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        if open_ended := [name for name in self.outputs if min(made[name], default=1) < 0]:
            found = f"{open_ended[0]} {made[open_ended[0]]}"
            raise BundleError(f"{self.engine.path}: expected outputs of known sizes, found {found}")
        self._shapes = {**shapes, **made}

    def _require(self, port: Port, shape: Shape) -> None:
        """Raise InputError for a shape outside the profile."""
        fits = zip(port.smallest, shape, port.largest, strict=True)
        if not all(low <= size <= high for low, size, high in fits):
            raise InputError(
                f"expected {port.info.name} from {port.smallest} to {port.largest}, found {shape}. Use "
                "another batch, or build with another --profile"
            )

    def _enqueue(self) -> None:
        context: Context = self._context
        with self._logger.listening() as lines:
            if not context.execute_async_v3(self.stream):
                what = f"TensorRT could not run {self.engine.path.name} on these inputs"
                raise InputError(with_lines(what, lines.everything, _SILENT))

    def _record(self) -> None:
        """Record one run as a CUDA graph, after a run outside of it, as TensorRT asks for."""
        self._enqueue()
        self.cuda.synchronize(self.stream)
        self.cuda.begin_capture(self.stream)
        try:
            self._enqueue()
        except BaseException:
            self.cuda.abandon_capture(self.stream)  # else the stream records for ever, and runs nothing
            raise
        self._graph = self.cuda.end_capture(self.stream)

    def _forget_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self.cuda.destroy_graph(graph)


def _ports(trt: Trt, engine: Engine, file: EngineFile) -> list[Port]:
    """What goes in and out. Raises BundleError for types or places that sessions do not handle."""
    return [_port(trt, engine, str(engine.get_tensor_name(i)), file) for i in range(engine.num_io_tensors)]


def _port(trt: Trt, engine: Engine, name: str, file: EngineFile) -> Port:
    dtype = _numpy_type(trt, engine.get_tensor_dtype(name))
    if dtype is None or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        found = f"{engine.get_tensor_dtype(name)} on {engine.get_tensor_location(name)}"
        raise BundleError(f"{file.path}: expected {name} as an array on the device, found {found}: {AGAIN}")
    shape = tuple(int(size) for size in engine.get_tensor_shape(name))
    is_input = bool(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    smallest = largest = shape
    dynamic = is_input and -1 in shape
    if dynamic:
        low, _, high = engine.get_tensor_profile_shape(name, 0)
        smallest, largest = tuple(low), tuple(high)
    info = TensorInfo(name, dtype, tuple(BATCH if size == -1 else size for size in shape))
    return Port(info, is_input, dynamic, smallest, largest)


def _numpy_type(trt: Trt, dtype: DataType) -> np.dtype[np.generic] | None:
    """numpy's name of a type; None for those that numpy has not (bfloat16 and smaller)."""
    known = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.INT32: "int32",
        trt.DataType.INT8: "int8",
        trt.DataType.UINT8: "uint8",
        trt.DataType.BOOL: "bool",
    }
    int64 = getattr(trt.DataType, "INT64", None)  # 10.x and newer
    if int64 is not None:
        known[int64] = "int64"
    name = known.get(dtype)
    return None if name is None else np.dtype(name)


def _batches(ports: dict[str, Port]) -> tuple[int, int] | None:
    """The least and largest batch of a dynamic engine; None for a static one."""
    for port in ports.values():
        if port.dynamic:
            return port.smallest[0], port.largest[0]
    return None
