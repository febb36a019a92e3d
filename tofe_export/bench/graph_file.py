"""The nodes of an ONNX file, read without the onnx package, which a device does not have.

A file of protobuf is a list of (key, value), and of an ONNX model only four levels matter here: model, graph,
node, and a node's names. Everything else (weights, shapes, attributes) is stepped over. Field numbers are
those of onnx.proto, where they cannot change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tofe_export.errors import InputError

_GRAPH, _NODE = 7, 1  # ModelProto.graph, GraphProto.node
_INPUT, _OUTPUT, _NAME, _OPERATOR = 1, 2, 3, 4  # of NodeProto
_FIXED = {1: 8, 5: 4}  # wire types of fixed size, and their bytes

Field = tuple[int, memoryview]


@dataclass(frozen=True)
class Node:
    """One node: its name, its operator, and the names of what it reads and makes."""

    name: str
    operator: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def read_nodes(path: Path) -> list[Node]:
    """Nodes of the main graph, in the order of the file. Raises InputError: missing, or no ONNX model."""
    try:
        model = memoryview(path.read_bytes())
        graphs = [value for number, value in _fields(model) if number == _GRAPH]
        found = [_node(value) for graph in graphs for number, value in _fields(graph) if number == _NODE]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: expected an ONNX model, found none that can be read ({error})") from error
    if not found:
        raise InputError(f"{path}: expected an ONNX model, found no nodes")
    return found


def _node(data: memoryview) -> Node:
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _NAME: [], _OPERATOR: []}
    for number, value in _fields(data):
        if number in texts:
            texts[number].append(str(value, "utf-8"))
    name, operator = ("".join(texts[key][-1:]) for key in (_NAME, _OPERATOR))
    return Node(name, operator, tuple(texts[_INPUT]), tuple(texts[_OUTPUT]))


def _fields(data: memoryview) -> Iterator[Field]:
    """Numbers and contents of the fields that have a length; numbers of other kinds are stepped over."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, place = _varint(data, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        elif kind == 2:
            size, place = _varint(data, place)
            if place + size > len(data):
                raise ValueError("the file ends early")
            yield number, data[place : place + size]
            place += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number without end")
