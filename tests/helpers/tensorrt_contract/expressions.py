"""Expressions: what each of them is, and every attribute that it touches on the way."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from tensorrt_contract import signatures
from tensorrt_contract.declared import Declared
from tensorrt_contract.words import (
    CONTAINERS,
    MODULE,
    OPAQUE,
    PLAIN,
    Type,
    annotated,
    called,
    element,
    is_object,
    text_of,
)
from tofe_export.trt.api import CLASSES
from tofe_export.trt.compat import Features

PASS_ON = ("list", "sorted", "tuple", "iter", "reversed")  # give what they are given
LOOK_ONLY = ("str", "repr", "bool", "int", "bytes", "id", "len", "isinstance", "print")
OF_MAPS = {"values": "iter {}", "items": "iter pair {}", "get": "{}", "pop": "{}", "copy": "map {}"}
Versions = frozenset[str]
Env = dict[str, Type]


class Expressions:
    """The half of `flow.Contract` that reads expressions."""

    inventories: Mapping[str, Any]
    features: Mapping[str, Features]
    declared: Declared
    used: set[tuple[str, str]]
    faults: list[str]
    file: str
    gives: Type
    inside: str

    def fault(self, node: ast.AST, text: str) -> None:
        """Note a fault where it is."""
        self.faults.append(f"{self.file}:{getattr(node, 'lineno', 0)}: {text}")

    def lose(self, node: ast.AST, kind: Type, place: str) -> None:
        """Note that a value would be lost."""
        self.fault(node, f"{kind} is lost in {place}: annotate it")

    def use(self, owner: str, name: str, where: Versions, line: int, optional: bool = False) -> None:
        """Note that a name is touched on these versions; an optional one must exist in one of them."""
        self.used.add((owner, name))
        lacking = [v for v in self.inventories if v in where and not self.has(v, owner, name)]
        if lacking and (not optional or len(lacking) == len(where)):
            what = name if owner == MODULE else f"{owner}.{name}"
            self.faults.append(f"{self.file}:{line}: {what} does not exist in {', '.join(lacking)}")

    def has(self, version: str, owner: str, name: str) -> bool:
        """Whether a version has a name."""
        inventory = self.inventories[version]
        if owner == MODULE:
            known = inventory.classes.keys() | inventory.other_classes | inventory.functions
            return name in known or name == "__version__"
        return name in inventory.classes.get(owner, {}) or (owner in inventory.classes and name == "__init__")

    def holds(self, test: ast.expr, version: str) -> bool | None:
        """Whether a test is true on a version; None if that cannot be told."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.holds(test.operand, version)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            parts = [self.holds(part, version) for part in test.values]
            decisive = isinstance(test.op, ast.Or)
            if decisive in parts:
                return decisive
            return None if None in parts else not decisive
        if isinstance(test, ast.Attribute) and ast.unparse(test.value).endswith("features"):
            return bool(getattr(self.features[version], test.attr))
        return None

    def eval(self, node: ast.expr, env: Env, where: Versions) -> Type:
        """The kind of an expression."""
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
            self.eval(node.test, env, where)
            yes = frozenset(v for v in where if self.holds(node.test, v) is not False)
            no = frozenset(v for v in where if self.holds(node.test, v) is not True)
            kinds = self.eval(node.body, env, yes), self.eval(node.orelse, env, no)
            return kinds[0] or kinds[1]
        if isinstance(node, ast.NamedExpr):
            made = env[node.target.id] = self.eval(node.value, env, where)
            return made
        if isinstance(node, ast.Lambda):
            named = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            self.eval(node.body, env | {a.arg: None for a in named}, where)
            return None
        if isinstance(node, ast.Subscript):
            return self._subscript(node, env, where)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            return self._display(node, env, where)
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return self._yield(node, env, where)
        if isinstance(node, (ast.Starred, ast.Await)):
            return self.eval(node.value, env, where)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.eval(child, env, where)
        return None

    def _attribute(self, node: ast.Attribute, env: Env, where: Versions) -> Type:
        base = self.eval(node.value, env, where)
        if base is None:
            return self.declared.attributes.get(node.attr)
        if base.startswith(CONTAINERS):
            return None
        return self._touch(node, base, node.attr, where)

    def _touch(self, node: ast.expr, base: str, name: str, where: Versions, optional: bool = False) -> Type:
        """An attribute of something of TensorRT."""
        if base == OPAQUE or base.startswith("call "):
            source = node.value if isinstance(node, ast.Attribute) else node
            self.fault(node, f"annotate {ast.unparse(source)}, {base}")
            return None
        owner = base.removeprefix("class ")
        self.use(owner, name, where, node.lineno, optional)
        if base == MODULE:
            return f"class {name}" if name[:1].isupper() else OPAQUE
        return OPAQUE if base.startswith("class ") else f"call {owner}.{name}"

    def _call(self, node: ast.Call, env: Env, where: Versions) -> Type:
        if called(node) in ("hasattr", "getattr", "setattr") and isinstance(node.func, ast.Name):
            return self._by_name(node, env, where)
        held = self.eval(node.func.value, env, where) if isinstance(node.func, ast.Attribute) else None
        if held and held.startswith(CONTAINERS):
            return self._of_container(node, held, env, where)
        kind = self.eval(node.func, env, where) if held is None else self._attribute_of(node, held, where)
        given: dict[int | str, Type] = {}
        for at, argument in enumerate(node.args):
            given[at] = self.eval(argument, env, where)
        for keyword in node.keywords:
            if not (isinstance(keyword.value, ast.Lambda) and called(node) == "sorted"):
                given[keyword.arg or "**"] = self.eval(keyword.value, env, where)
        if kind and kind.startswith(("class ", "call ")):
            owner, _, method = kind.partition(" ")[2].partition(".")
            self._fits(node, owner, method or "__init__", where)
            return self._made_by(owner, method) if method else owner
        if kind == OPAQUE:
            return OPAQUE
        return self._ours(node, given, env, where)

    def _attribute_of(self, node: ast.Call, held: str, where: Versions) -> Type:
        assert isinstance(node.func, ast.Attribute), ast.unparse(node)
        return self._touch(node.func, held, node.func.attr, where)

    def _ours(self, node: ast.Call, given: dict[int | str, Type], env: Env, where: Versions) -> Type:
        """A call of our own function, or of Python's."""
        name, method = called(node), isinstance(node.func, ast.Attribute)
        first = given.get(0)
        if not method and name in PASS_ON:
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Lambda) and name == "sorted":
                    own = env | {a.arg: element(first) for a in keyword.value.args.args}
                    self.eval(keyword.value.body, own, where)
            return first
        if not method and name == "enumerate":
            return f"iter pair {element(first)}" if element(first) else None
        if not method and name == "next":
            return element(first)
        if not method and name in LOOK_ONLY:
            return None
        if not method and name == "cast":
            return annotated(node.args[0])
        if name in ("import_module", "__import__") and text_of(node.args[0]) == "tensorrt":
            self.fault(node, "import tensorrt by a statement, so that its names are followed")
        name = self.inside if name == "cls" else name
        for place, kind in given.items():
            expected = self.declared.expects(name, place)
            if is_object(kind) and (not expected or set(expected) != {kind}):
                self.lose(node, kind, f"a call of {ast.unparse(node.func)}")
        return (self.declared.methods if method else self.declared.returns).get(name)

    def _by_name(self, node: ast.Call, env: Env, where: Versions) -> Type:
        """hasattr, getattr and setattr: the name must be in the text."""
        base = self.eval(node.args[0], env, where)
        for more in node.args[2:]:
            self.eval(more, env, where)
        if base is None:
            return None
        name = text_of(node.args[1])
        if name is None:
            self.eval(node.args[1], env, where)
            self.fault(node, f"{ast.unparse(node)} asks for a name that is not in the text")
            return OPAQUE
        optional = called(node) == "hasattr" or (called(node) == "getattr" and len(node.args) > 2)
        made = self._touch(node, base, name, where, optional)
        return made if called(node) == "getattr" else None

    def _of_container(self, node: ast.Call, held: str, env: Env, where: Versions) -> Type:
        for argument in node.args:
            self.eval(argument, env, where)
        form = OF_MAPS.get(called(node)) if held.startswith("map ") else None
        return form.format(element(held)) if form else None

    def _fits(self, node: ast.Call, owner: str, method: str, where: Versions) -> None:
        """Whether TensorRT's function takes such arguments, on every version that has it."""
        for version in sorted(where & self.inventories.keys()):
            text = self.inventories[version].classes.get(owner, {}).get(method, "")
            signature = signatures.parse(text)
            if signature and (wrong := signature.fault_of(node)):
                self.fault(node, f"{owner}.{method} {wrong} (TensorRT {version})")
                return

    def _made_by(self, owner: str, method: str) -> Type:
        """What a method gives, by its signature; OPAQUE where that is not known."""
        for inventory in self.inventories.values():
            found = re.search(r"-> (\w+)", inventory.classes.get(owner, {}).get(method, ""))
            if found:
                return found[1] if found[1] in CLASSES.values() else None if found[1] in PLAIN else OPAQUE
        return OPAQUE

    def _subscript(self, node: ast.Subscript, env: Env, where: Versions) -> Type:
        base = self.eval(node.value, env, where)
        self.eval(node.slice, env, where)
        if base is None or base == OPAQUE or base.startswith("call "):
            return None
        if base.startswith(CONTAINERS):
            return base if isinstance(node.slice, ast.Slice) else element(base)
        name = text_of(node.slice)
        if base.startswith("class ") and name is None:
            self.fault(node, f"{ast.unparse(node)} asks for a name that is not in the text")
            return OPAQUE
        return self._touch(node, base, name if base.startswith("class ") and name else "__getitem__", where)

    def _display(self, node: Any, env: Env, where: Versions) -> Type:
        """A list, tuple, set or dictionary in the text."""
        values = node.values if isinstance(node, ast.Dict) else node.elts
        for key in filter(None, node.keys if isinstance(node, ast.Dict) else []):
            if is_object(kind := self.eval(key, env, where)):
                self.lose(node, kind, "a dictionary's keys")
        kinds = [self.eval(value, env, where) for value in values]
        objects = {kind for kind in kinds if is_object(kind)}
        if not objects:
            return None
        if len(objects) > 1 or len(kinds) != sum(map(is_object, kinds)) or kinds[0] is None:
            self.lose(node, " and ".join(sorted(map(str, objects))), "a display of several kinds")
            return None
        return f"{'map' if isinstance(node, ast.Dict) else 'iter'} {kinds[0]}"

    def _yield(self, node: ast.Yield | ast.YieldFrom, env: Env, where: Versions) -> Type:
        made = self.eval(node.value, env, where) if node.value else None
        one = made if isinstance(node, ast.Yield) else element(made)
        if is_object(one) and self.gives != f"iter {one}":
            self.lose(node, one, f"what is yielded, which is declared as {self.gives or 'something else'}")
        return None

    def _comprehension(self, node: Any, env: Env, where: Versions) -> Type:
        own = dict(env)
        for part in node.generators:
            self._bind(part.target, element(self.eval(part.iter, own, where)), own, where)
            for test in part.ifs:
                self.eval(test, own, where)
        if isinstance(node, ast.DictComp):
            if is_object(key := self.eval(node.key, own, where)):
                self.lose(node, key, "a dictionary's keys")
            made = self.eval(node.value, own, where)
            return f"map {made}" if is_object(made) else None
        made = self.eval(node.elt, own, where)
        return f"iter {made}" if is_object(made) else None

    def _bool(self, node: ast.BoolOp, env: Env, where: Versions) -> Type:
        made: Type = None
        for value in node.values:
            made = self.eval(value, env, where) or made
            goes_on = isinstance(node.op, ast.And)
            where = frozenset(v for v in where if self.holds(value, v) is not (not goes_on))
        return made

    def _bind(self, target: ast.expr, kind: Type, env: Env, where: Versions) -> None:
        raise NotImplementedError
