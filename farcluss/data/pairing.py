"""From an image to its mask: the masks options of folder layouts.

A masks option is a folder that mirrors the images, or a pattern with `{stem}` (name of the image, without
extension and without the suffix that masks do not have), `{dir}` (folder of the image below the root) and `{up}` (the
folder above that). `{stem:OLD=NEW}` is the name with a part of it replaced.
Either way the mask may have any of the layout's extensions, in any case; a pattern may name one. Names must be equal in
case, and in either normal form of Unicode. Two masks for one image are an error.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from string import Formatter

from farcluss.data.accounting import Reason, same_name
from farcluss.data.searching import TEXTS, Found, readable, search, whole
from farcluss.errors import DataError, short


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
        folder: of the masks.
        found: masks in it, and what else lies there.
        files: masks by path below their folder, without extension.
        by_name: whether an image without a mirrored mask may have one directly in that folder, with the same name.
    """

    base: Path
    folder: Path
    found: Found
    files: Mapping[str, Sequence[Path]]
    by_name: bool

    @classmethod
    def of(cls, base: Path, masks: Path, by_name: bool, extensions: Sequence[str]) -> "Mirror":
        """The masks of a folder."""
        found = whole(search(masks, extensions))
        files: dict[str, list[Path]] = {}
        for path in found.files:
            name = path.relative_to(masks).with_name(stem_of(path.name, extensions)).as_posix()
            files.setdefault(same_name(name), []).append(path)
        return cls(base, masks, found, files, by_name)

    def find(self, image: Path) -> Sequence[Path]:
        """All masks of an image, whose name has neither extension nor suffix."""
        inside = image.relative_to(self.base).as_posix() if image.is_relative_to(self.base) else ""
        return self.files.get(same_name(inside)) or (self.files.get(same_name(image.name), ()) if self.by_name else ())

    def search(self) -> Found:
        """Every file that may be the mask of some image."""
        return self.found

    def claims(self, path: Path) -> bool:
        """Whether a file is a mask by where it lies, so no image."""
        apart = self.folder != self.base and not self.base.is_relative_to(self.folder)
        return apart and path.is_relative_to(self.folder)


class _Stem(str):
    """The name of an image, which the format `OLD=NEW` changes."""

    def __format__(self, change: str) -> str:
        old, _, new = change.partition("=")
        return self.replace(old, new) if old else str(self)


@dataclass(frozen=True)
class Pattern:
    """A pattern for the path of a mask, given its image.

    Attributes:
        root: of the data set.
        text: the pattern.
        extensions: tried where the pattern has none.
        folders: files by name without extension, in the folders that were looked into.
    """

    root: Path
    text: str
    extensions: Sequence[str]
    folders: dict[Path, dict[str, list[Path]]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raise DataError for unknown fields."""
        try:
            fields = [part[1:] for part in Formatter().parse(self.text) if part[1] is not None]
        except ValueError:
            fields = [("", None, None)]
        for name, form, conversion in fields:
            change = name == "stem" and form and form[0] != "=" and form.count("=") == 1
            if name not in ("stem", "dir", "up") or (form and not change) or conversion:
                raise DataError(
                    f"The masks pattern {short(self.text)!r} may hold {{stem}}, {{dir}} and {{up}} only, and "
                    "{stem:OLD=NEW} for names in which OLD is replaced by NEW."
                )

    def find(self, image: Path) -> Sequence[Path]:
        """All masks of an image, whose name has neither extension nor suffix. Raises DataError for a text."""
        folder = image.parent.relative_to(self.root) if image.is_relative_to(self.root) else image.parent
        path = self.root / self.text.format(stem=_Stem(image.name), dir=folder.as_posix(), up=folder.parent.as_posix())
        path = Path(os.path.normpath(path))
        if self._end(path.name):
            own = self._listed(path.parent).get(same_name(stem_of(path.name, self.extensions)), ())
            return [file for file in own if self._end(file.name) == self._end(path.name)]
        own = self._listed(path.parent).get(same_name(path.name), ())
        if path.suffix.lower() in TEXTS and path.is_file():
            raise DataError(f"{path} would be a mask, but is no image. Draw masks from such files first.")
        return [*own, *([path] if path.is_file() and path not in own else [])]

    def _end(self, name: str) -> str:
        return name[len(stem_of(name, self.extensions)) :].lower()

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self.folders:
            if folder.is_dir() and not readable(folder):
                raise DataError(f"{folder} cannot be searched: permission denied. Change its rights.")
            files = self.folders[folder] = {}
            for path in sorted(folder.iterdir()) if readable(folder) else []:
                if self._end(path.name) and path.is_file():
                    files.setdefault(same_name(stem_of(path.name, self.extensions)), []).append(path)
        return self.folders[folder]

    def search(self) -> Found:
        """Every file that may be the mask of some image, and what else fits the pattern or cannot be searched."""
        found = search(fixed_part(self.root, self.text.format(stem=_Stem("*"), dir="*", up="*")), self.extensions)
        passed = [entry for entry in found.passed if entry.reason is Reason.DENIED or self._fits(entry.path)]
        return Found([path for path in found.files if self._fits(path)], passed)

    def claims(self, path: Path) -> bool:
        """Whether a file is a mask by its name, so no image: the pattern adds something to the name of the image."""
        name = self.text.rpartition("/")[2]
        return (name[: -len(self._end(name))] if self._end(name) else name) != "{stem}" and self._fits(path)

    def _fits(self, path: Path) -> bool:
        """Whether the pattern can give a path, for an image of any name."""
        anywhere = re.sub(r"\{(dir|up)\}(/\.\.)*", "{up}", self.text)
        words = {"{up}/": "(?:.*/)?", "{up}": ".*", "{stem}": "[^/]+"}
        parts = re.split(r"(\{up\}/|\{up\}|\{stem(?::[^}]*)?\})", below(self.root / anywhere, self.root))
        changed = {part: f"[^/]*{re.escape(part[:-1].partition('=')[2])}[^/]*" for part in parts if "{stem:" in part}
        expression = "".join((words | changed).get(part, re.escape(part)) for part in parts)
        ends = "" if self._end(self.text) else f"(?:{'|'.join(map(re.escape, self.extensions))})"
        return re.fullmatch(expression + ends, below(path, self.root), re.IGNORECASE) is not None


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
            extensions: of masks.

        Raises:
            DataError: a pattern has unknown fields.
        """
        base, by_name = fixed_part(root, images), not (root / images).is_dir()
        pattern = "{" in masks
        folder = Path(os.path.abspath(root / masks))
        where = Pattern(root, masks, extensions) if pattern else Mirror.of(base, folder, by_name, extensions)
        return cls(base, where, suffix, image_extensions)

    def __call__(self, image: Path) -> Path | None:
        """The mask of an image file; None where there is none. Raises DataError where there are two."""
        return self.named(image.with_name(stem_of(image.name, self.image_extensions)), [image])

    def named(self, image: Path, files: Collection[Path] = ()) -> Path | None:
        """The same for a path without extension, whose files are no masks of it."""
        found = self.where.find(image.with_name(image.name.removesuffix(self.suffix)))
        masks = [mask for mask in found if mask not in files]
        if len(masks) > 1:
            raise DataError(f"The mask of {image} may be {masks[0]} or {masks[1]}. Remove or rename one of them.")
        return masks[0] if masks else None

    def all(self, images: Iterable[Path]) -> tuple[dict[Path, Path | None], list[str]]:
        """Masks by image, and a problem for each image with two masks, which is left out."""
        masks: dict[Path, Path | None] = {}
        problems = []
        for image in images:
            try:
                masks[image] = self(image)
            except DataError as error:
                problems.append(str(error))
        return masks, problems
