"""Pictures in tar files, read in place by timm: one .tar, one per class, or folders inside of them.

A class is the last folder of a picture's path inside its tar file, or the tar file's own name where there is
no folder. timm takes the suffixes .png, .jpg and .jpeg.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from tofe_export.errors import ImageError, InputError
from tofe_export.preprocess import load_image
from tofe_export.training.pictures import Pictures, gone_message

_DAMAGE = (OSError, tarfile.TarError, ValueError, EOFError, KeyError, AttributeError)


class TarPictures(Pictures):
    """The pictures of a .tar file, or of all .tar files in a folder.

    Open tar files are kept, one set per process: two processes reading through one file handle would move
    each other's position.
    """

    def __init__(self, root: Path) -> None:
        """Raises InputError: damaged tar files, none with pictures, or fewer than 2 classes."""
        self.root = root
        self._reader = _reader(root)
        self._process = os.getpid()
        # timm's order has the tar files as the file system lists them; ours is the same on every machine
        self._order = sorted(range(len(self._reader)), key=self._key)
        numbers: dict[str, int] = self._reader.class_name_to_idx
        self.classes = tuple(sorted(numbers, key=lambda name: numbers[name]))
        self.targets = [int(self._reader.targets[place]) for place in self._order]
        if len(self.classes) < 2:
            raise InputError(f"{root}: expected pictures of at least 2 classes, found {list(self.classes)}")

    def load(self, position: int) -> Image.Image:
        """As `Pictures.load`."""
        if self._process != os.getpid():  # forked: the handles belong to the parent
            self._forget()
        try:
            file, _ = self._reader[self._order[position]]
        except _DAMAGE as error:
            self.close()
            reason = str(error).split("\n", 1)[0]
            raise ImageError(f"{self.name(position)}: cannot be read from the tar file ({reason})") from error
        with file:
            return load_image(self.name(position), file)

    def name(self, position: int) -> str:
        """TAR FILE:MEMBER."""
        member, tar, _ = self._reader.samples[self._order[position]]
        return f"{self.root / tar if tar else self.root}:{member.name}"

    def key(self, position: int) -> str:
        """TAR FILE:MEMBER, the file below the folder."""
        return self._key(self._order[position])

    def size(self, position: int) -> int:
        """Bytes of the member."""
        return int(self._reader.samples[self._order[position]][0].size)

    def gone(self) -> str | None:
        """A message if the tar file or folder is not there any more."""
        return gone_message(self.root)

    def close(self) -> None:
        """Close the tar files that this process opened."""
        for state in self._states():
            if state.tf is not None and self._process == os.getpid():
                state.tf.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        self.close()  # open files do not travel to other processes
        return self.__dict__

    def _key(self, place: int) -> str:
        member, tar, _ = self._reader.samples[place]
        return f"{tar or self.root.name}:{member.name}"

    def _forget(self) -> None:
        for state in self._states():
            state.reset()
        self._process = os.getpid()

    def _states(self) -> list[Any]:
        """timm's records of open files: of tar files, and of tar files inside them."""
        top = self._reader.tar_state
        states = [top] if self._reader.root_is_tar else list(top.values())
        return [*(child for state in states for child in state.children.values()), *states]


def _reader(root: Path) -> Any:  # noqa: ANN401  (timm's readers are not typed)
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    try:
        reader = ReaderImageInTar(str(root))
    except (*_DAMAGE, AssertionError) as error:
        raise InputError(
            f"{root}: expected tar files with .png or .jpg pictures, found none or damaged ones ({error})"
        ) from error
    if root.is_dir():
        used = {tar for _, tar, _ in reader.samples}
        empty = sorted(path.name for path in root.glob("*.tar") if path.name not in used)
        if empty:
            raise InputError(f"{root / empty[0]}: expected pictures (.png .jpg .jpeg), found none. Remove it")
    return reader
