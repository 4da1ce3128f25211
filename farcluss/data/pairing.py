"""From an image to its mask: the masks options of folder layouts.

A masks option is a folder that mirrors the images, or a pattern with `{stem}` (name of the image, without
extension and without the suffix that masks do not have), `{dir}` (folder of the image below the root) and `{up}` (the
folder above that).
Either way the mask may have any of the layout's extensions; a pattern may name one.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from farcluss.errors import DataError, short

_FIELD = re.compile(r"\{(?:stem|dir|up)\}")


def stem_of(name: str, extensions: Iterable[str]) -> str:
    """A file's name without the longest of the extensions that it ends in, whatever their case."""
    ends = [len(end) for end in extensions if name.lower().endswith(end)]
    return name[: -max(ends)] if ends else name


def below(path: Path, folder: Path) -> str:
    """A path relative to a folder; the whole path where it is not inside it."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def fixed_part(root: Path, pattern: str) -> Path:
    """The parent folder of all images of a folder or glob; `root` for a list file, whose images may be anywhere."""
    if pattern.endswith(".txt"):
        return root
    plain = pattern if (root / pattern).is_dir() else ""
    parts = Path(plain).parts or takewhile(lambda part: not set(part) & set("*?["), Path(pattern).parts)
    return Path(os.path.abspath(root.joinpath(*parts)))


@dataclass(frozen=True)
class Mirror:
    """A folder of masks that mirrors the folder of the images.

    Attributes:
        base: folder of the images.
        files: masks by path below their folder, without extension.
        by_name: whether an image without a mirrored mask may have one directly in that folder, with the same name.
    """

    base: Path
    files: Mapping[str, Path]
    by_name: bool

    @classmethod
    def of(cls, base: Path, masks: Path, by_name: bool, extensions: Sequence[str]) -> "Mirror":
        """The masks of a folder; of two that differ only in extension, the one whose extension comes first."""
        names = ((path, path.name.lower()) for path in masks.rglob("*"))
        found = [(rank, path) for path, name in names for rank, end in enumerate(extensions) if name.endswith(end)]
        files: dict[str, Path] = {}
        for _, path in sorted(found):
            inside = path.relative_to(masks)
            files.setdefault(inside.with_name(stem_of(path.name, extensions)).as_posix(), path)
        return cls(base, files, by_name)

    def find(self, image: Path) -> Path | None:
        """The mask of an image, whose name has neither extension nor suffix."""
        inside = image.relative_to(self.base).as_posix() if image.is_relative_to(self.base) else ""
        return self.files.get(inside) or (self.files.get(image.name) if self.by_name else None)


@dataclass(frozen=True)
class Pattern:
    """A pattern for the path of a mask, given its image.

    Attributes:
        root: of the data set.
        text: the pattern.
        extensions: tried where the pattern has none.
    """

    root: Path
    text: str
    extensions: Sequence[str]

    def find(self, image: Path) -> Path | None:
        """The mask of an image, whose name has neither extension nor suffix. Raises DataError for unknown fields."""
        folder = image.parent.relative_to(self.root) if image.is_relative_to(self.root) else image.parent
        fields = {"{stem}": image.name, "{dir}": folder.as_posix(), "{up}": folder.parent.as_posix()}
        if not {"{", "}"}.isdisjoint(_FIELD.sub("", self.text)):
            raise DataError(f"The masks pattern {short(self.text)!r} may hold {{stem}}, {{dir}} and {{up}} only.")
        path = self.root / _FIELD.sub(lambda field: fields[field[0]], self.text)
        ends = () if path.name.lower().endswith(tuple(self.extensions)) else self.extensions
        places = (path, *(path.with_name(path.name + end) for end in ends))
        return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class MaskFinder:
    """From an image to its mask.

    Attributes:
        base: folder of the images.
        where: location of the masks.
        suffix: ending of image names that mask names do not have.
        image_extensions: extensions removed from image names.
    """

    base: Path
    where: Mirror | Pattern
    suffix: str
    image_extensions: Sequence[str]

    @classmethod
    def of(
        cls,
        root: Path,
        images: str,
        masks: str,
        suffix: str,
        image_extensions: Sequence[str],
        extensions: Sequence[str],
    ) -> "MaskFinder":
        """The finder of an images option and a masks option.

        Args:
            root: of the data set.
            images: folder, glob or list file.
            masks: folder or pattern.
            suffix: ending of image names that mask names do not have.
            image_extensions: of images.
            extensions: of masks; of two masks with the same name, the one whose extension comes first is used.
        """
        base, by_name = fixed_part(root, images), not (root / images).is_dir()
        pattern = "{" in masks
        where = Pattern(root, masks, extensions) if pattern else Mirror.of(base, root / masks, by_name, extensions)
        return cls(base, where, suffix, image_extensions)

    def __call__(self, image: Path) -> Path | None:
        """The mask of an image file; None where there is none. Raises DataError for a pattern with unknown fields."""
        return self.named(image.with_name(stem_of(image.name, self.image_extensions)))

    def named(self, image: Path) -> Path | None:
        """The same for a path without extension."""
        return self.where.find(image.with_name(image.name.removesuffix(self.suffix)))

    @property
    def masks(self) -> Mapping[str, Path]:
        """All masks of a mirrored folder; none for a pattern."""
        return self.where.files if isinstance(self.where, Mirror) else {}
