"""Which pictures are fitted on, and which judge: three quarters and one, both in a drawn order.

Folders sort pictures by class, and what is fitted on the first images alone, or batch by batch, must not see
one class at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tofe_export.calibration.stream import ImageStream
from tofe_export.errors import ImageError
from tofe_export.training.seeding import ORDER, permutation

LEAST = 32
JUDGING = 4  # every fourth picture


class Parts(NamedTuple):
    """The two parts of a stream's pictures."""

    fitted: ImageStream
    held_out: ImageStream


def parts(stream: ImageStream, seed: int) -> Parts:
    """Split the pictures of a stream, once they were all looked at. Raises ImageError for fewer than 32."""
    if stream.count < LEAST:
        raise ImageError(
            f"{stream.selection.root}: expected at least {LEAST} readable pictures to fit on, found "
            f"{stream.count}. Give more with --num-images or another --images"
        )
    readable = [name for name in stream.selection.names if name not in stream.unreadable]
    drawn = tuple(readable[place] for place in permutation(len(readable), ORDER, seed))
    judging = drawn[JUDGING - 1 :: JUDGING]
    fitting = tuple(name for place, name in enumerate(drawn) if (place + 1) % JUDGING)
    return Parts(_of(stream, fitting), _of(stream, judging))


def _of(stream: ImageStream, names: tuple[str, ...]) -> ImageStream:
    selection = replace(stream.selection, names=names)
    return ImageStream(selection, stream.pre, stream.batch, max_corrupt=stream.max_corrupt)
