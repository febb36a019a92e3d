"""Training pictures that cannot be read: a few are skipped and counted, many stop the training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tofe_export.errors import InputError
from tofe_export.training.samples import NOTHING

SHOWN = 5  # file names in a message


def read_failures(indices: Tensor) -> list[int]:
    """Positions of the samples of a batch (`Batch.indices`) whose own picture could not be read."""
    return [-1 - index for index in indices.tolist() if NOTHING < index < 0]


class Unreadable:
    """Collects unreadable pictures over a run and judges their share of the data set."""

    def __init__(
        self,
        count: int,
        name: Callable[[int], str],
        max_corrupt: float,
        gone: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`count` samples; `name` names one; `gone` says that the whole data disappeared, or None."""
        self.count = count
        self.allowed = max(int(max_corrupt * count), 1 if max_corrupt > 0 else 0)
        self.indices: set[int] = set()
        self._name = name
        self._gone = gone

    def note(self, indices: Tensor) -> list[int]:
        """Take in a batch's indices; returns the samples found unreadable for the first time.

        Raises InputError: the data is gone, nothing readable was found, or more than the allowed share of the
        data set is unreadable. At least one picture is allowed, unless max_corrupt is 0.
        """
        new = [index for index in read_failures(indices) if index not in self.indices]
        self.indices.update(new)
        nothing = bool((indices == NOTHING).any())
        if (new or nothing) and (message := self._gone()) is not None:
            raise InputError(message)
        if nothing:
            raise InputError(f"no readable picture was found for a sample.{self._listed()} Repair the data")
        if len(self.indices) > self.allowed:
            raise InputError(
                f"expected at most {self.allowed} of {self.count} training pictures to be unreadable "
                f"(--max-corrupt), found {len(self.indices)} so far.{self._listed()} Repair or remove them"
            )
        return new

    def names(self, limit: int | None = None) -> list[str]:
        """The unreadable pictures found so far, in the data set's order."""
        return [self._name(index) for index in sorted(self.indices)[:limit]]

    def _listed(self) -> str:
        if not self.indices:
            return ""
        more = len(self.indices) - SHOWN
        return f" They are {', '.join(self.names(SHOWN))}{f' and {more} more' if more > 0 else ''}."
