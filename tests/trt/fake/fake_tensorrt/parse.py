"""The reading part of the FAKE: networks, layers, tensors, and the parser that fills them from ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from fake_tensorrt.network import Network, read_network, type_name


class ITensor:
    _fake: Any
    _name: str
    _elem: int
    _shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return getattr(self._fake.DataType, type_name(self._fake, self._elem))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def is_shape_tensor(self) -> bool:
        return False


class ILayer:
    _fake: Any
    _name: str
    _kind: str
    _inputs: list[Any]
    _outputs: list[Any]
    _strong: bool
    _precision: Any
    _held: dict[int, Any]

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return getattr(self._fake.LayerType, self._kind)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    @property
    def precision(self) -> Any:
        return self._precision

    @precision.setter
    def precision(self, value: Any) -> None:
        self._refuse_strong()
        object.__setattr__(self, "_precision", value)

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._refuse_strong()
        self._held[index] = dtype

    def _refuse_strong(self) -> None:
        if self._strong:
            self._fake.log("ERROR", "Error Code 3: API Usage Error (precision in a strongly typed network)")
            raise AssertionError("FAKE TensorRT: a strongly typed network takes no layer precisions")


class INetworkDefinition:
    _fake: Any
    _flags: int
    _network: Network | None
    _layers: list[Any]
    _inputs: list[Any]

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def _has(self, flag: str) -> bool:
        number = getattr(self._fake.NetworkDefinitionCreationFlag, flag, None)
        return number is not None and bool(self._flags & 1 << int(number))

    def _fill(self, network: Network) -> None:
        tensors = {
            name: self._fake.new("ITensor", name=name, elem=elem, shape=shape)
            for name, (elem, shape) in network.tensors.items()
        }
        for layer in network.layers:
            self._layers.append(
                self._fake.new(
                    "ILayer",
                    name=layer.name,
                    kind=layer.kind,
                    inputs=[tensors.get(name) for name in layer.inputs],
                    outputs=[tensors[name] for name in layer.outputs],
                    strong=self._has("STRONGLY_TYPED"),
                    precision=None,
                    held={},
                )
            )
        self._inputs.extend(tensors[name] for name in network.inputs)
        object.__setattr__(self, "_network", network)


class ParserError:
    _text: str
    _node: int
    _name: str
    _operator: str

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class OnnxParser:
    _fake: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._fake.keep_logger(logger)
        self._network, self._errors = network, list[Any]()

    def parse_from_file(self, model: str) -> bool:
        fake, path = self._fake, Path(model)
        try:
            graph = onnx.load(path)
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            return self._fail(f"Failed to parse ONNX model: {error}", 0, None)
        if fake.numbers()[0] < 10 and not self._network._has("EXPLICIT_BATCH"):
            return self._fail("the ONNX parser only supports explicit batch", 0, None)
        for index, node in enumerate(graph.graph.node):
            if reason := _refusal(fake, node):
                return self._fail(reason, index, node)
        self._network._fill(read_network(fake, graph))
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def _fail(self, text: str, index: int, node: Any) -> bool:
        name, operator = (node.name, node.op_type) if node is not None else ("", "")
        text = f"[FAKE] {text}"
        self._errors.append(
            self._fake.new("ParserError", text=text, node=index, name=name, operator=operator)
        )
        return False


def _refusal(fake: Any, node: Any) -> str:
    """What this version's parser has against a node, or nothing."""
    if fake.script.parser_error:
        return str(fake.script.parser_error)
    if node.domain not in ("", "ai.onnx"):
        return "Plugin not found, are the plugin name, version, and namespace correct?"
    reduction = any(attribute.name == "reduction" for attribute in node.attribute)
    if node.op_type == "ScatterND" and reduction and (10, 0) <= fake.numbers()[:2] < (10, 9):
        return 'Assertion failed: !attrs.count("reduction"): Attribute reduction is not supported.'
    return ""
