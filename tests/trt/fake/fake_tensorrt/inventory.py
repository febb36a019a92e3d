"""Classes with exactly the members that one version of TensorRT has, and nothing else.

The inventories in tests/trt/data were listed from NVIDIA's own wheels. A behaviour (parse.py, build.py,
run.py) says what a member does in any version; `make_class` keeps what this version has and drops the rest. A
member that exists and is not imitated can be asked for (`hasattr`), and raises NotImplementedError when it is
used. As in the real bindings, no attribute can be set that is not a property.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data"
SPECIAL = ("__init__", "__len__", "__getitem__", "__bytes__", "__iter__")


class Missing:
    """A member that exists in this TensorRT and is not imitated."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"FAKE TensorRT does not imitate {self.name}")

    def __set__(self, instance: object, value: object) -> None:
        raise NotImplementedError(f"FAKE TensorRT does not imitate {self.name}")

    def __call__(self, *arguments: object) -> Any:
        raise NotImplementedError(f"FAKE TensorRT does not imitate {self.name}")


def load(version: str) -> dict[str, Any]:
    """The inventory of a version: classes with members, other classes and functions by name."""
    data: dict[str, Any] = json.loads((DATA / f"{version}.json").read_text())
    return data


def make_class(name: str, members: dict[str, str], behaviour: type, fake: object) -> type:
    """A class with these members, doing what `behaviour` does."""
    space: dict[str, Any] = {"_fake": fake, "_members": members, "__setattr__": _set}
    for base in reversed(behaviour.__mro__[:-1]):
        own = vars(base).items()
        space |= {key: value for key, value in own if key in SPECIAL or _is_private(key)}
    for member, kind in members.items():
        if member in SPECIAL:
            continue
        found = inspect.getattr_static(behaviour, member, None)
        if found is not None:
            _compare(f"{name}.{member}", kind, found)
        space[member] = Missing(f"{name}.{member}") if found is None else found
    return type(name, (), space)


def make_enum(name: str, members: dict[str, str], owner: str = "") -> type:
    """An enumeration as pybind11 makes them: instances that are integers, with a name."""
    label = owner or name

    def text(self: Any) -> str:
        return f"{label}.{self.name}"

    space: dict[str, Any] = {"__int__": lambda self: self.value, "__str__": text, "__repr__": text}
    space |= {member: Missing(f"{name}.{member}") for member in members if member not in SPECIAL}
    space |= {"name": "", "value": -1}
    kind = type(name, (), space)
    values = sorted(member for member, what in members.items() if what == "value")
    for number, member in enumerate(values):
        item = kind()
        item.name, item.value = member, number
        setattr(kind, member, item)
    return kind


def is_enum(members: dict[str, str]) -> bool:
    """Whether a class of the inventory is an enumeration."""
    return {"name", "value"} <= members.keys() and "value" in members.values()


def _is_private(key: str) -> bool:
    return key.startswith("_") and not key.startswith("__")


def _set(self: Any, key: str, value: object) -> None:
    members: dict[str, str] = type(self)._members
    if not key.startswith("_") and members.get(key) != "property":
        raise AttributeError(
            f"FAKE TensorRT {self._fake.version}: {type(self).__name__} has no {key!r} to set"
        )
    object.__setattr__(self, key, value)


def _compare(name: str, kind: str, found: Any) -> None:
    """The behaviour must have the form that the inventory tells: a property, or so many parameters."""
    assert isinstance(found, property) == (kind == "property"), f"{name} is a {kind}"
    if kind.startswith("(") and "*args" not in kind:
        listed = re.sub(r"<[^>]*>", "...", kind[1 : kind.rindex(")")])
        names = re.findall(r"(\w+): ", listed)
        own = list(inspect.signature(found).parameters)[1:]
        needed = len(names) - listed.count(" = ")
        assert names[: len(own)] == own, f"{name}{kind}: the fake takes {own}"
        assert len(own) >= needed, f"{name}{kind}: the fake takes {own}"
