"""Following TensorRT's objects through the text of a module: which attributes are touched, on which versions.

Values annotated with the names of `trt/api.py` are followed, and whatever comes out of them by calls whose
signatures the inventories hold. `if features.X`, and a guard that leaves the function, narrow a branch to the
versions whose `Features` say so. What cannot be followed is a fault too: it must be annotated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tofe_export.trt.api import CLASSES
from tofe_export.trt.compat import Features

MODULE, OPAQUE = "module tensorrt", "an object of TensorRT"
PLAIN = {"bool", "int", "str", "float", "None", "bytes", "Dims", "List", "list"}
PASS_ON = {"list", "sorted", "tuple", "iter", "reversed"}

Type = str | None  # "ILayer", "class ILayer", "iter ILayer", "map ILayer", "call ILayer.name", MODULE, OPAQUE


@dataclass
class Contract:
    """What the inventories allow, and what was found."""

    inventories: Mapping[str, Any]
    features: Mapping[str, Features]
    returns: dict[str, Type] = field(default_factory=dict)  # of functions
    methods: dict[str, Type] = field(default_factory=dict)
    attributes: dict[str, Type] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    file: str = ""

    def check(self, sources: Mapping[str, str]) -> list[str]:
        trees = {name: ast.parse(text) for name, text in sources.items()}
        for tree in trees.values():
            self._declare(tree)
        for self.file, tree in trees.items():
            self._block(tree.body, {}, frozenset(self.inventories))
        return self.faults

    def _declare(self, tree: ast.Module) -> None:
        """Note what functions and methods give, and what attributes of our own objects are."""
        self.returns |= returned(tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.methods |= returned(node.body)
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                self._note_attributes((ast.unparse(part.target), part.annotation) for part in fields)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                self._note_attributes([(node.target.attr, node.annotation)])
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                made = self.returns.get(called(node.value))
                if made:
                    self.attributes[node.targets[0].attr] = made

    def _note_attributes(self, declared: Iterable[tuple[str, ast.expr]]) -> None:
        for name, annotation in declared:
            if kind := annotated(annotation):
                self.attributes[name] = kind

    # statements -------------------------------------------------------------------------------------------

    def _block(self, body: Iterable[ast.stmt], env: dict[str, Type], where: frozenset[str]) -> None:
        for statement in body:
            where = self._statement(statement, env, where)

    def _statement(self, node: ast.stmt, env: dict[str, Type], where: frozenset[str]) -> frozenset[str]:
        """Follow one statement; gives the versions on which the next one runs."""
        if isinstance(node, ast.FunctionDef):
            for default in node.args.defaults:
                self._eval(default, env, where)
            own = env | {a.arg: annotated(a.annotation) for a in (*node.args.args, *node.args.kwonlyargs)}
            self._block(node.body, own, where)
        elif isinstance(node, ast.ClassDef):
            self._class(node, env, where)
        elif isinstance(node, ast.If):
            return self._if(node, env, where)
        elif isinstance(node, ast.For):
            self._bind(node.target, element(self._eval(node.iter, env, where)), env)
            self._block(node.body, env, where)
        elif isinstance(node, ast.AnnAssign):
            made = self._eval(node.value, env, where) if node.value else None
            if isinstance(node.target, ast.Name):
                env[node.target.id] = annotated(node.annotation) or made
        elif isinstance(node, ast.Assign):
            made = self._eval(node.value, env, where)
            for target in node.targets:
                self._bind(target, made, env, where)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    self._statement(child, env, where)
                elif isinstance(child, ast.expr):
                    self._eval(child, env, where)
                elif isinstance(child, (ast.ExceptHandler, ast.withitem)):
                    self._parts(child, env, where)
        return where

    def _parts(self, node: ast.AST, env: dict[str, Type], where: frozenset[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child, env, where)
            elif isinstance(child, ast.expr):
                self._eval(child, env, where)

    def _class(self, node: ast.ClassDef, env: dict[str, Type], where: frozenset[str]) -> None:
        for base in node.bases:
            kind = self._eval(base, env, where)
            if kind and kind.startswith("class "):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self._use(kind[6:], method.name, where, method.lineno)
        self._block(node.body, dict(env), where)

    def _if(self, node: ast.If, env: dict[str, Type], where: frozenset[str]) -> frozenset[str]:
        self._eval(node.test, env, where)
        yes = frozenset(v for v in where if self._holds(node.test, v) is not False)
        no = frozenset(v for v in where if self._holds(node.test, v) is not True)
        self._block(node.body, env, yes)
        self._block(node.orelse, env, no)
        leaves = isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue))
        return no if leaves and not node.orelse else where

    def _holds(self, test: ast.expr, version: str) -> bool | None:
        """Whether a test is true on a version; None if that cannot be told."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._holds(test.operand, version)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            parts = [self._holds(part, version) for part in test.values]
            decisive = isinstance(test.op, ast.Or)
            if decisive in parts:
                return decisive
            return None if None in parts else not decisive
        if isinstance(test, ast.Attribute) and ast.unparse(test.value).endswith("features"):
            return bool(getattr(self.features[version], test.attr))
        return None

    def _bind(
        self, target: ast.expr, kind: Type, env: dict[str, Type], where: frozenset[str] | None = None
    ) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = kind
        elif isinstance(target, ast.Tuple):
            inner = kind[5:] if kind and kind.startswith("pair ") else None
            for item in target.elts[:-1]:
                self._bind(item, None, env)
            self._bind(target.elts[-1], inner, env)
        elif where is not None:  # layer.precision = ..., self.x = ...
            self._eval(target, env, where)

    # expressions ------------------------------------------------------------------------------------------

    def _eval(self, node: ast.expr, env: dict[str, Type], where: frozenset[str]) -> Type:
        if isinstance(node, ast.Name):
            return env.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, env, where)
        if isinstance(node, ast.Call):
            return self._call(node, env, where)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self._comprehension(node, env, where)
        if isinstance(node, ast.BoolOp):
            return self._bool(node, env, where)
        if isinstance(node, ast.IfExp):
            self._eval(node.test, env, where)
            yes = frozenset(v for v in where if self._holds(node.test, v) is not False)
            no = frozenset(v for v in where if self._holds(node.test, v) is not True)
            return self._eval(node.body, env, yes) or self._eval(node.orelse, env, no)
        if isinstance(node, ast.Lambda):
            return self._eval(node.body, env | {a.arg: None for a in node.args.args}, where)
        if isinstance(node, ast.Subscript):
            base = self._eval(node.value, env, where)
            self._eval(node.slice, env, where)
            return element(base) if base and base.startswith(("iter ", "map ")) else None
        self._parts(node, env, where)
        return None

    def _attribute(self, node: ast.Attribute, env: dict[str, Type], where: frozenset[str]) -> Type:
        base = self._eval(node.value, env, where)
        if base is None or base.startswith(("iter ", "map ", "pair ")):
            return self.attributes.get(node.attr) if base is None else None
        if base == OPAQUE or base.startswith("call "):
            self.faults.append(f"{self.file}:{node.lineno}: annotate {ast.unparse(node.value)}, {base}")
            return None
        owner = base.removeprefix("class ")
        self._use(owner, node.attr, where, node.lineno)
        if base == MODULE:
            return f"class {node.attr}" if node.attr[:1].isupper() else OPAQUE
        return OPAQUE if base.startswith("class ") else f"call {owner}.{node.attr}"

    def _call(self, node: ast.Call, env: dict[str, Type], where: frozenset[str]) -> Type:
        kind = self._eval(node.func, env, where)
        given = [self._eval(argument, env, where) for argument in node.args]
        for keyword in node.keywords:
            self._eval(keyword.value, env, where)
        name = called(node)
        if name in ("hasattr", "getattr") and given[0]:
            asked = node.args[1]
            assert isinstance(asked, ast.Constant), ast.unparse(node)
            assert isinstance(asked.value, str), ast.unparse(node)
            self._use(given[0].removeprefix("class "), asked.value, where, node.lineno, optional=True)
            return OPAQUE if name == "getattr" else None
        if name == "enumerate":
            return f"iter pair {element(given[0])}" if element(given[0]) else None
        if name in PASS_ON:
            return given[0] if given else None
        if kind and kind.startswith("class "):
            return kind[6:]
        if kind and kind.startswith("call "):
            return self._made_by(*kind[5:].split("."))
        return (self.methods if isinstance(node.func, ast.Attribute) else self.returns).get(name)

    def _made_by(self, owner: str, method: str) -> Type:
        """What a method gives, by its signature; OPAQUE where that is not known."""
        for inventory in self.inventories.values():
            found = re.search(r"-> (\w+)", inventory.classes.get(owner, {}).get(method, ""))
            if found:
                return found[1] if found[1] in CLASSES.values() else None if found[1] in PLAIN else OPAQUE
        return OPAQUE

    def _comprehension(self, node: Any, env: dict[str, Type], where: frozenset[str]) -> Type:
        own = dict(env)
        for part in node.generators:
            self._bind(part.target, element(self._eval(part.iter, own, where)), own)
            for test in part.ifs:
                self._eval(test, own, where)
        if isinstance(node, ast.DictComp):
            self._eval(node.key, own, where)
            made = self._eval(node.value, own, where)
            return f"map {made}" if made and made in CLASSES.values() else None
        made = self._eval(node.elt, own, where)
        return f"iter {made}" if made and made in CLASSES.values() else None

    def _bool(self, node: ast.BoolOp, env: dict[str, Type], where: frozenset[str]) -> Type:
        for value in node.values:
            self._eval(value, env, where)
            goes_on = isinstance(node.op, ast.And)
            where = frozenset(v for v in where if self._holds(value, v) is not (not goes_on))
        return None

    def _use(self, owner: str, name: str, where: frozenset[str], line: int, optional: bool = False) -> None:
        self.used.add((owner, name))
        lacking = [v for v in self.inventories if v in where and not self._has(v, owner, name)]
        if lacking and (not optional or len(lacking) == len(self.inventories)):
            what = name if owner == MODULE else f"{owner}.{name}"
            self.faults.append(f"{self.file}:{line}: {what} does not exist in {', '.join(lacking)}")

    def _has(self, version: str, owner: str, name: str) -> bool:
        inventory = self.inventories[version]
        if owner == MODULE:
            known = inventory.classes.keys() | inventory.other_classes | inventory.functions
            return name in known or name == "__version__"
        return name in inventory.classes.get(owner, {}) or (owner in inventory.classes and name == "__init__")


def annotated(node: ast.expr | None) -> Type:
    """The TensorRT type that an annotation names."""
    if node is None:
        return None
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    alias = next((name for name in names if name in CLASSES or name == "Trt"), None)
    if alias is None:
        return None
    kind = MODULE if alias == "Trt" else CLASSES[alias]
    outer = names[0] if isinstance(node, ast.Subscript) else ""
    if outer in ("dict", "Mapping"):
        return f"map {kind}"
    return f"iter {kind}" if outer in ("Iterator", "Iterable", "list", "tuple", "Sequence") else kind


def returned(body: Iterable[ast.stmt]) -> dict[str, Type]:
    """What functions or methods give, as far as it is something of TensorRT."""
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    return {node.name: made for node in functions if (made := annotated(node.returns))}


def called(node: ast.expr) -> str:
    """The name of the function or method that is called, "" for everything else."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def element(kind: Type) -> Type:
    """What iterating over a value gives."""
    return kind.split(" ", 1)[1] if kind and kind.startswith(("iter ", "map ")) else None
