"""Data sets whose items are files below one folder: the base of every layout on disk."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from farcluss.data.accounting import Account, Passed
from farcluss.data.base import Item, MissingMask, Palette, Reduced, Sample, Window
from farcluss.data.files import SUFFIXES
from farcluss.data.masks import MaskMap
from farcluss.data.oddities import oddities
from farcluss.data.searching import Found, search_any, whole
from farcluss.errors import DataError, RecipeError, short
from farcluss.recipes.model import Defaults

HINT = "Check data.root and the layout's image options."


class Reader(Protocol):
    """Reads items, as `farcluss.data.files.FileReader` does."""

    @property
    def masks(self) -> MaskMap:
        """Which mask value is which class."""

    def size(self, item: Item) -> tuple[int, ...]:
        """`(H, W)` as displayed."""

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Image and mask of an item, or of a window of it."""

    def read_reduced(self, item: Item, window: Window, factor: int) -> Reduced | None:
        """A window with its image downsampled."""


def nothing_passed(dataset: "FileDataset", used: Collection[str]) -> Iterable[Passed]:
    """No entries, for layouts that search no folders."""
    return ()


@dataclass(frozen=True)
class FileDataset:
    """Items in files below one root; see `farcluss.data.base.Dataset`.

    Its functions belong to modules, not to other functions, so that it can be sent to worker processes.

    Attributes:
        root: folder to which ids and list lines are relative; absolute.
        splits: per split, the function that lists its items.
        image_of: image path of a bare identifier in a list; None when there is none.
        mask_of: mask path of an image path; None when there is none.
        lists_decide: whether a mask named in a list takes precedence over `mask_of`. False where the layout has
            options that choose among several masks of an image, which published lists cannot know.
        defaults: values of recipe keys that are unset.
        passed: entries of the layout's folders that are not used where these files are.
        group: pattern whose first part in brackets is the group of an id; empty for none.
    """

    classes: tuple[str, ...]
    palette: Palette
    root: Path
    reader: Reader
    splits: Mapping[str, Callable[["FileDataset"], list[Item]]]
    image_of: Callable[[str], Path | None]
    mask_of: Callable[[Path], Path | None]
    lists_decide: bool = False
    defaults: Defaults = field(default_factory=Defaults)
    passed: Callable[["FileDataset", Collection[str]], Iterable[Passed]] = nothing_passed
    group: str = ""

    def items(self, split: str) -> list[Item]:
        """Items of a split. Raises DataError when it has none."""
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise DataError(
                f"This data set has no {split!r} images; it has {known}.\n"
                f'Give the layout\'s {split} options, a list file, or a share such as data.val = "1/5".'
            )
        return self.splits[split](self)

    def item(self, image: Path, listed: Path | None = None) -> Item:
        """The item of an image, with the mask that belongs to it where there is one.

        Raises:
            MissingMask: a list names a mask that does not exist, and the layout may not give another.
            DataError: the file name is not valid UTF-8, or has a line break.
        """
        try:
            str(image).encode()
        except UnicodeEncodeError:
            raise _undecoded(image) from None
        if not {"\n", "\r"}.isdisjoint(str(image)):
            raise DataError(f"The file name {str(image)!r} has a line break, which no list can hold. Rename the file.")
        image = Path(os.path.abspath(image))  # one spelling per image, so that overlaps are found
        known = (listed,) if listed and self.lists_decide else (self.mask_of(image), listed)
        mask = next((path for path in known if path and path.is_file()), None)
        inside = image.relative_to(self.root) if image.is_relative_to(self.root) else image
        name = inside.with_suffix("").as_posix()
        found = re.match(self.group, name) if self.group else None
        item = Item(name, str(image), str(mask) if mask else None, found[1] if found else "")
        if listed and not mask:
            raise MissingMask(f"the mask {listed} does not exist. Fix the list, or leave the mask out of it.", [item])
        return item

    def parse(self, line: str) -> Item:
        """The item of a list line: `IMAGE`, `IMAGE MASK` or an identifier.

        A tab or blanks separate image and mask; names may contain blanks.

        Paths are absolute or relative to the root; a leading slash of a relative path, as in some lists, is ignored.
        """
        text = line.strip()
        for image, mask in pairs(text):
            if path := self._find(image):
                return self.item(path, (self._find(mask) or self.root / mask) if mask else None)
        image_path = self.image_of(text)
        if image_path is None or not image_path.is_file():
            raise DataError(f"{short(text)!r} names no image below {self.root}. Check data.root.")
        return self.item(image_path)

    def _find(self, name: str) -> Path | None:
        candidates = (self.root / name, self.root / name.lstrip("/"))
        return next((path for path in candidates if path.is_file()), None)

    def size(self, item: Item) -> tuple[int, ...]:
        """`(H, W)`."""
        return self.reader.size(item)

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Arrays of an item, see `FileReader.read`."""
        return self.reader.read(item, window)

    def oddities(self, items: Sequence[Item]) -> list[str]:
        """What the files of items are suspected of together, see `farcluss.data.oddities`."""
        return oddities(items, self.reader.masks)

    def account(self, items: Sequence[Item]) -> Account:
        """What of the layout's folders is not used where these items are."""
        used = {path for item in items for path in (item.image, item.mask) if path}
        return Account.of(used, self.passed(self, used))

    def read_reduced(self, item: Item, window: Window, factor: int) -> Reduced | None:
        """A window with its image downsampled by up to `factor`, see `FileReader.read_reduced`."""
        return self.reader.read_reduced(item, window, factor)


def _undecoded(path: Path) -> DataError:
    """The error for a name that the encoding of the locale did not decode."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower() == "utf-8":
        return DataError(f"The file name {str(path)!r} is not valid UTF-8. Rename the file.")
    return DataError(f"The locale's encoding, {encoding}, lacks letters of {str(path)!r}. Set LC_ALL=C.UTF-8.")


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """All ways to read a line as image and mask: whole, then at each tab, or at each blank where there is no tab."""
    separator = "\t" if "\t" in text else " "
    yield text, ""
    for place, character in enumerate(text):
        if character == separator:
            yield text[:place].rstrip(), text[place:].lstrip()


def check_group(pattern: str) -> None:
    """Raise RecipeError for a pattern of groups that is no regular expression with a part in brackets."""
    try:
        fits = not pattern or re.compile(pattern).groups > 0
    except re.error as error:
        raise RecipeError(f"data.layout.group = {short(pattern)!r} is no regular expression: {error}.") from None
    if not fits:
        raise RecipeError(f'data.layout.group = {short(pattern)!r} has no part in brackets, as in "(.*)_[0-9]+".')


def find_images(root: Path, pattern: str) -> list[Path]:
    """Image files of a folder (with sub-folders) or a glob below `root`, sorted. Raises DataError for none."""
    found = whole(look_for(root, pattern))
    if not found.files:
        reason = Account.of((), found.passed).lines()[:1]
        raise DataError("\n".join([f"There are no images in {root / pattern}.", *reason, HINT]))
    return list(found.files)


def look_for(root: Path, pattern: str) -> Found:
    """Image files of a folder (with sub-folders) or a glob below `root`. Raises DataError for an invalid glob."""
    try:
        return search_any(root, pattern, SUFFIXES)
    except DataError as error:
        raise DataError(f"{error}\n{HINT}") from None
