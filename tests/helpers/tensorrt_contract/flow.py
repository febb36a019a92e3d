"""Statements, one after the other, on the versions of TensorRT on which each of them runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorrt_contract.declared import Declared
from tensorrt_contract.expressions import Expressions, Versions
from tensorrt_contract.words import MODULE, Type, annotated, element, is_object
from tofe_export.trt.compat import Features

Env = dict[str, Type]


@dataclass
class Contract(Expressions):
    """What the inventories allow, and what was found: `faults`, and the names in `used`."""

    inventories: Mapping[str, Any]
    features: Mapping[str, Features]
    declared: Declared = field(default_factory=Declared)
    used: set[tuple[str, str]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    file: str = ""
    gives: Type = None  # what the function that is being read says it gives
    inside: str = ""  # the class that is being read

    def check(self, sources: Mapping[str, str]) -> list[str]:
        """The faults of these modules, by their names and texts."""
        trees = {name: ast.parse(text) for name, text in sources.items()}
        for tree in trees.values():
            self.declared.read(tree)
        for tree in trees.values():
            self.declared.read_assigned(tree)
        for self.file, tree in trees.items():
            self._block(tree.body, {}, frozenset(self.inventories))
        return self.faults

    def _block(self, body: Iterable[ast.stmt], env: Env, where: Versions) -> None:
        for statement in body:
            where = self._statement(statement, env, where)

    def _statement(self, node: ast.stmt, env: Env, where: Versions) -> Versions:
        """Follow one statement; gives the versions on which the next one runs."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, env, where)
        elif isinstance(node, ast.ClassDef):
            self._class(node, env, where)
        elif isinstance(node, ast.If):
            return self._if(node, env, where)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self._bind(node.target, element(self.eval(node.iter, env, where)), env, where)
            self._block([*node.body, *node.orelse], env, where)
        elif isinstance(node, ast.AnnAssign):
            self._annotated(node, env, where)
        elif isinstance(node, ast.Assign):
            self._assign(node, env, where)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node, env)
        elif isinstance(node, ast.Return):
            made = self.eval(node.value, env, where) if node.value else None
            if is_object(made) and made != self.gives:
                self.lose(node, made, f"the result, which is declared as {self.gives or 'something else'}")
        else:
            self._parts(node, env, where)
        return where

    def _parts(self, node: ast.AST, env: Env, where: Versions) -> None:
        """Everything inside a statement of another kind, in order."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child, env, where)
            elif isinstance(child, ast.expr):
                self.eval(child, env, where)
            elif isinstance(child, ast.withitem):
                made = self.eval(child.context_expr, env, where)
                if child.optional_vars:
                    self._bind(child.optional_vars, made, env, where)
            elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                self._parts(child, env, where)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, env: Env, where: Versions) -> None:
        own, given = dict(env), node.args
        for default in (*given.defaults, *filter(None, given.kw_defaults), *node.decorator_list):
            self.eval(default, env, where)
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            own[argument.arg] = annotated(argument.annotation)
        if given.vararg and (kind := annotated(given.vararg.annotation)):
            own[given.vararg.arg] = f"iter {kind}"
        if given.kwarg and (kind := annotated(given.kwarg.annotation)):
            own[given.kwarg.arg] = f"map {kind}"
        outside, self.gives = self.gives, annotated(node.returns)
        self._block(node.body, own, where)
        self.gives = outside

    def _class(self, node: ast.ClassDef, env: Env, where: Versions) -> None:
        for base in (*node.bases, *node.decorator_list):
            kind = self.eval(base, env, where)
            if kind and kind.startswith("class "):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self.use(kind[6:], method.name, where, method.lineno)
        outside, self.inside = self.inside, node.name
        self._block(node.body, dict(env), where)
        self.inside = outside

    def _if(self, node: ast.If, env: Env, where: Versions) -> Versions:
        self.eval(node.test, env, where)
        yes = frozenset(v for v in where if self.holds(node.test, v) is not False)
        no = frozenset(v for v in where if self.holds(node.test, v) is not True)
        self._block(node.body, env, yes)
        self._block(node.orelse, env, no)
        leaves = isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue))
        return no if leaves and not node.orelse else where

    def _annotated(self, node: ast.AnnAssign, env: Env, where: Versions) -> None:
        made = self.eval(node.value, env, where) if node.value else None
        said = annotated(node.annotation)
        if isinstance(node.target, ast.Name):
            env[node.target.id] = said or made
        else:
            self._bind(node.target, said or made, env, where)

    def _assign(self, node: ast.Assign, env: Env, where: Versions) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for one, value in pairs:
                self._bind(one, self.eval(value, env, where), env, where)

    def _import(self, node: ast.Import | ast.ImportFrom, env: Env) -> None:
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "tensorrt":
                    env[name.asname or name.name] = MODULE
        elif (node.module or "").partition(".")[0] == "tensorrt":
            self.fault(node, "import tensorrt as a whole, so that its names are followed")

    def _bind(self, target: ast.expr, kind: Type, env: Env, where: Versions) -> None:
        """Give a value to a name, to the names of a tuple, or to an attribute."""
        if isinstance(target, ast.Name):
            env[target.id] = kind
        elif isinstance(target, ast.Starred):
            self._bind(target.value, kind and f"iter {kind}", env, where)
        elif isinstance(target, (ast.Tuple, ast.List)):
            pair = kind is not None and kind.startswith("pair ")
            inner = kind[5:] if kind and pair else element(kind)
            for at, item in enumerate(target.elts):
                self._bind(item, inner if not pair or at == len(target.elts) - 1 else None, env, where)
        elif isinstance(target, ast.Attribute):
            touched = self.eval(target, env, where)  # layer.precision = ..., self.x = ...
            if is_object(kind) and touched is None and self.declared.attributes.get(target.attr) != kind:
                self.lose(target, kind, f"the attribute {target.attr}")
            elif is_object(kind) and is_object(touched) and touched != kind:
                self.lose(target, kind, f"the attribute {target.attr}, which is declared as {touched}")
        else:
            self.eval(target, env, where)
            if is_object(kind):
                self.lose(target, kind, ast.unparse(target))
