"""Every error that a user can meet, in one tree; each class carries its exit code.

    TofeError
    ├── VerdictFailed        1   a check ran and its verdict is "no"
    ├── TrainingDiverged     1   a loss or a gradient is no number any more
    ├── UsageError           2   the command line asks for something that cannot be
    │   ├── BudgetError          a budget or keep counts outside what the model can reach
    │   └── VariantError         no variant of that name in the bundle
    ├── InputError           3   a file or array that was handed in is not usable
    │   ├── CheckpointError      weights: missing, truncated, unsafe, not finite, of another architecture
    │   ├── UnsupportedModel     an architecture that ToFe cannot be put into (yet)
    │   └── ImageError           pictures: missing, damaged, too large
    ├── BundleError          4   the bundle is damaged or not a bundle
    ├── MissingBackend       5   a runtime, provider or device is not there
    │   └── MissingExtra         a Python package is not installed; the message has the pip line
    ├── BuildFailed          6   an engine or graph could not be built
    ├── PrecisionError       7   a precision that was asked for did not happen
    └── WriteError           8   an output could not be written; what was there before is untouched

Interrupting a command (Ctrl-C) exits with 130. The command line maps nothing else, except that a path which
the system keeps from us (no permission, a failing disk) and that nobody said more of is bad input, 3: any
other exception is a bug and keeps its traceback. A message says what was expected, what was found, and what
to do.
"""

from __future__ import annotations

INTERRUPTED = 130


class TofeError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1


class VerdictFailed(TofeError):
    """A check ran to its end and failed."""


class TrainingDiverged(TofeError):
    """A loss or a gradient is NaN or infinite; what was saved before is untouched."""


class UsageError(TofeError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class BudgetError(UsageError):
    """A budget or keep counts outside what the model can reach."""


class VariantError(UsageError):
    """The bundle holds no such variant."""


class InputError(TofeError):
    """A file or array that was handed in is not usable."""

    exit_code = 3


class CheckpointError(InputError):
    """Weights that are missing, truncated, unsafe, not finite or of another architecture."""


class UnsupportedModel(InputError):
    """An architecture that ToFe cannot be put into."""


class ImageError(InputError):
    """A picture that is missing, damaged or too large, or a folder without pictures."""


class BundleError(TofeError):
    """The bundle is damaged, incomplete, or not a bundle."""

    exit_code = 4


class MissingBackend(TofeError):
    """A runtime, provider or device that was asked for is not there."""

    exit_code = 5


class MissingExtra(MissingBackend):
    """A Python package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed, and this command needs it. Install it with: "
            f"pip install 'tofe-export[{extra}]'"
        )


class BuildFailed(TofeError):
    """An engine or a graph could not be built."""

    exit_code = 6


class PrecisionError(TofeError):
    """A precision that was asked for did not happen."""

    exit_code = 7


class WriteError(TofeError):
    """An output could not be written; nothing half-written is left behind."""

    exit_code = 8
