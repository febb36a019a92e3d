"""What our own code says of itself: the parameters and results of functions, the attributes of objects.

Names are not resolved: a method is every method of that name, an attribute every attribute. Where two of one
name disagree, a value of TensorRT may go into neither.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from tensorrt_contract.words import Type, annotated, called


@dataclass(frozen=True)
class Parameters:
    """What a function takes: kinds by position and by name."""

    positional: tuple[Type, ...]
    named: dict[str, Type]
    rest: Type = None  # of *arguments, each

    def at(self, place: int | str) -> Type:
        """The kind of an argument that is given by position or by name."""
        if isinstance(place, str):
            return self.named.get(place)
        return self.positional[place] if place < len(self.positional) else self.rest


@dataclass
class Declared:
    """All declarations of some modules."""

    returns: dict[str, Type] = field(default_factory=dict)  # of functions
    methods: dict[str, Type] = field(default_factory=dict)
    attributes: dict[str, Type] = field(default_factory=dict)
    takes: dict[str, list[Parameters]] = field(default_factory=dict)  # functions, methods, classes

    def read(self, tree: ast.Module) -> None:
        """Note what a module declares."""
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        inside = {id(part) for node in classes for part in node.body}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._function(node, is_method=id(node) in inside)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                self._attribute(node.target.attr, node.annotation)
        for one in classes:
            self._class(one)

    def read_assigned(self, tree: ast.Module) -> None:
        """Attributes that are made by a function whose result is declared; after all modules were read."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                made = self.returns.get(called(node.value))
                if made:
                    self.attributes[node.targets[0].attr] = made

    def expects(self, name: str, place: int | str) -> list[Type]:
        """What everything of that name takes there; [] if nothing of ours is called so."""
        return [parameters.at(place) for parameters in self.takes.get(name, [])]

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> None:
        made = annotated(node.returns)
        if made:
            (self.methods if is_method else self.returns)[node.name] = made
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        self.takes.setdefault(node.name, []).append(parameters_of(node, skip=is_method and not static))
        if is_method and any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
            self._attribute(node.name, node.returns)

    def _class(self, node: ast.ClassDef) -> None:
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        for part in fields:
            self._attribute(ast.unparse(part.target), part.annotation)
        own = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
        if own:
            made = parameters_of(own[0], skip=True)
        else:  # a dataclass
            named = {ast.unparse(part.target): annotated(part.annotation) for part in fields}
            made = Parameters(tuple(named.values()), named)
        self.takes.setdefault(node.name, []).append(made)

    def _attribute(self, name: str, annotation: ast.expr | None) -> None:
        if kind := annotated(annotation):
            self.attributes[name] = kind


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef, skip: bool) -> Parameters:
    """The parameters of a function, without `self` if it is to be skipped."""
    listed = [*node.args.posonlyargs, *node.args.args][int(skip) :]
    positional = tuple(annotated(argument.annotation) for argument in listed)
    named = kinds([*listed, *node.args.kwonlyargs])
    rest = annotated(node.args.vararg.annotation) if node.args.vararg else None
    return Parameters(positional, named, rest)


def kinds(arguments: Iterable[ast.arg]) -> dict[str, Type]:
    """Names and kinds."""
    return {argument.arg: annotated(argument.annotation) for argument in arguments}
