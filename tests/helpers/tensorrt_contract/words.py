"""Kinds of values, as strings: "ILayer", "class ILayer", "iter ILayer", "map ILayer", "pair ILayer",
"call ILayer.name" (a method or a property of one), MODULE, OPAQUE (an enumeration's member, or something of
TensorRT that the inventories do not name). None is everything that is not TensorRT's."""

from __future__ import annotations

import ast

from tofe_export.trt.api import CLASSES

MODULE, OPAQUE = "module tensorrt", "an object of TensorRT"
PLAIN = {"bool", "int", "str", "float", "None", "bytes", "Dims", "List", "list"}
CONTAINERS = ("iter ", "map ", "pair ")

Type = str | None


def annotated(node: ast.expr | None) -> Type:
    """The kind that an annotation names."""
    if node is None:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return annotated(ast.parse(node.value, mode="eval").body)
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    alias = next((name for name in names if name in CLASSES or name == "Trt"), None)
    if alias is None or names[0] == "Callable":
        return None
    kind = MODULE if alias == "Trt" else CLASSES[alias]
    outer = names[0] if isinstance(node, ast.Subscript) else ""
    if outer in ("dict", "Mapping"):
        return f"map {kind}"
    return f"iter {kind}" if outer in ("Iterator", "Iterable", "list", "tuple", "Sequence") else kind


def is_object(kind: Type) -> bool:
    """Whether attributes can be touched through it, so that losing sight of it matters."""
    if kind is None or kind == MODULE:
        return kind == MODULE
    inner = kind.split(" ", 1)[1] if kind.startswith(CONTAINERS) else kind
    return inner == MODULE or (inner in CLASSES.values() and inner != "DataType") or is_pair(inner)


def is_pair(kind: str) -> bool:
    """Whether it is "pair X" of an object: something and an object, as `enumerate` and `items` give."""
    return kind.startswith("pair ") and is_object(kind[5:])


def element(kind: Type) -> Type:
    """What iterating over a value, or asking a mapping, gives."""
    return kind.split(" ", 1)[1] if kind and kind.startswith(("iter ", "map ")) else None


def called(node: ast.expr) -> str:
    """The name of the function or method that is called, "" for everything else."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def text_of(node: ast.expr | None) -> str | None:
    """A string constant's value."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
