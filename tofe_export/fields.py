"""Reading JSON that somebody else may have edited: every value is asked for by name and type.

`json.loads` gives whatever the file holds; a string where a number belongs would surface hours later, far
from its cause. `Fields` takes one JSON object and hands out typed values, and `done` refuses what nobody
asked for, so that nothing is lost silently when the object is written again. All complaints are ValueErrors
that name the place ("variants[2].keep"), what was expected and what was found; callers turn them into the
error of their file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Fields:
    """Typed access to one JSON object; `where` is its place in the file, for messages."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where or 'the file'}: expected an object, found {brief(data)}")
        self._data: dict[str, Any] = data
        self._where = where
        self._asked: set[str] = set()

    def place(self, key: str) -> str:
        """The key's place in the file, for messages."""
        return f"{self._where}.{key}" if self._where else key

    def get(self, key: str) -> Any:  # noqa: ANN401 - this is where untyped JSON comes in
        """The raw value. Raises ValueError when the key is missing."""
        self._asked.add(key)
        if key not in self._data:
            raise ValueError(f"{self.place(key)}: expected this key, found none")
        return self._data[key]

    def has(self, key: str) -> bool:
        """Whether the key is there: for keys that older files do not have."""
        return key in self._data

    def child(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self.get(key), self.place(key))

    def mapping(self, key: str) -> dict[str, Any]:
        """A nested object, as it is."""
        value = self.get(key)
        if not isinstance(value, dict):
            self._refuse(key, "an object", value)
        return dict(value)

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """A string, one of `choices` where there are any."""
        value = self.get(key)
        if not isinstance(value, str) or (choices and value not in choices):
            self._refuse(key, "one of " + ", ".join(choices) if choices else "a string", value)
        return str(value)

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self.get(key)
        if not isinstance(value, bool):
            self._refuse(key, "true or false", value)
        return value

    def integer(self, key: str, least: int = 0) -> int:
        """An integer that is at least `least`; true and 1.0 are not integers."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(key, f"an integer of at least {least}", value)
        return int(value)

    def number(self, key: str) -> float:
        """An integer or a float, neither NaN nor infinite."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._refuse(key, "a finite number", value)
        return float(value)

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """`read(key)`, or None where the file says null."""
        return None if self.get(key) is None else read(key)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers that are at least 0."""
        return self.each(key, lambda fields, index: fields.integer(index))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return self.each(key, lambda fields, index: fields.number(index))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return self.each(key, lambda fields, index: fields.text(index))

    def children(self, key: str) -> tuple[Fields, ...]:
        """A list of nested objects."""
        return self.each(key, lambda fields, index: fields.child(index))

    def each(self, key: str, read: Callable[[Fields, str], T]) -> tuple[T, ...]:
        """Read every item of a list with one of the methods above; the item's place is `key[index]`."""
        value = self.get(key)
        if not isinstance(value, list):
            self._refuse(key, "a list", value)
        items = Fields({f"{key}[{index}]": item for index, item in enumerate(value)}, self._where)
        return tuple(read(items, f"{key}[{index}]") for index in range(len(value)))

    def rest(self) -> Mapping[str, Any]:
        """The values nobody asked for yet."""
        return {key: value for key, value in self._data.items() if key not in self._asked}

    def done(self) -> None:
        """Raise ValueError when the object holds keys that nobody asked for."""
        if unknown := ", ".join(map(repr, self.rest())):
            raise ValueError(f"{self._where or 'the file'}: unknown key {unknown}")

    def _refuse(self, key: str, expected: str, value: object) -> NoReturn:
        raise ValueError(f"{self.place(key)}: expected {expected}, found {brief(value)}")


def brief(value: object) -> str:
    """A value as a message shows it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
