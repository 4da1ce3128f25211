"""A whole data set in one HDF5 file, chunked so that a crop reads only its window. `farcluss.jobs.packing` writes it.

Layout of the file: `contents` has the table of contents as JSON, see `Contents`, `sizes` the spatial size of each
image, `pixels/valid` `(images,)` and `pixels/classes` `(masks, C)` numbers of pixels. Arrays are in `images/N`
`(Cin, *S)`, `masks/N` and `valid/N` `(*S)`, N counting images and masks in the order of the items. Arrays and tables
have their CRC-32 as an attribute; what HDF5 keeps on them has checksums of its own, see `LIBRARY`.
"""

import json
import os
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from pathlib import Path, PurePath
from typing import Any
from weakref import WeakSet

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from farcluss.data.base import Item, MissingMask, Palette, Sample, Window
from farcluss.data.filesets import pairs
from farcluss.data.masks import recipe_palette
from farcluss.errors import DataError, not_a_file
from farcluss.recipes.model import Data, Defaults

FORMAT, VERSION = "farcluss-pack", 6
LIBRARY = "v108", "v108"
"""Versions of HDF5 whose format is written. Older ones lack checksums of names and headers, so that a flipped bit can
make HDF5 run for ever; newer ones refuse a file whose writer was killed.
"""
CHECKSUM = "crc32"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEFAULTS = TypeAdapter(Defaults)
PIXELS = "pixels/valid", "pixels/classes"
_SIDES = {1: (1 << 15,), 2: (128, 256), 3: (16, 32, 64)}
_CHUNK_BYTES = 1 << 19  # half of HDF5's chunk cache: chunks that don't fit it are read row by row, seven times slower
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""Exceptions of h5py for a file that is damaged or was changed."""


def chunk_shape(shape: tuple[int, ...], itemsize: int, axes: int) -> tuple[int, ...]:
    """Chunks of an array whose last `axes` axes are spatial: about 128 x 256 pixels, all channels where they fit.

    Sides divide the array evenly, as HDF5 stores full chunks also at the edges.
    """
    sides = [_even(extent, side) for extent, side in zip(shape[-axes:], _SIDES.get(axes, (16,) * axes), strict=True)]
    return (*(_even(count, _CHUNK_BYTES // (prod(sides) * itemsize)) for count in shape[:-axes]), *sides)


def _even(extent: int, side: int) -> int:
    return ceil(extent / ceil(extent / max(side, 1)))


def checksum(array: NDArray[Any]) -> int:
    """CRC-32 of an array's content."""
    return zlib.crc32(np.ascontiguousarray(array).data)


@dataclass(frozen=True)
class Contents:
    """All that a pack knows but pixels.

    Attributes:
        origin: what its pixels depend on, by recipe key, see `farcluss.learning.build.data_origin`.
        root: folder that the names of its images are relative to.
        lists_decide: whether a mask that a list names goes before the data set's own choice.
        classes: names.
        palette: one color per class.
        items: of all splits and lists.
        splits: places in `items` of each split.
        missing: for each split that the data set has not, how it says so.
        lines: what a line of a list may say, and the places in `items` of what it names.
        carried: keys of `[data]` as weights files shall have them, see `farcluss.data.base.Dataset.carried`; empty when
            the data set leaves that to the recipe.
        carried_origin: `origin` of a recipe that has those keys, as weights files do; or empty.
        defaults: what the data set knows of its images.
    """

    origin: dict[str, Any]
    root: str
    lists_decide: bool
    classes: tuple[str, ...]
    palette: Palette
    items: tuple[Item, ...]
    splits: dict[str, list[int]]
    missing: dict[str, str]
    lines: dict[str, list[int]]
    carried: dict[str, Any]
    carried_origin: dict[str, Any]
    defaults: Defaults

    @cached_property
    def images(self) -> dict[str, int]:
        """Number of each image."""
        return {name: number for number, name in enumerate(dict.fromkeys(item.image for item in self.items))}

    @cached_property
    def masks(self) -> dict[tuple[str, str], int]:
        """Number of the mask of each image and mask."""
        found = dict.fromkeys((item.image, item.mask) for item in self.items if item.mask is not None)
        return {(image, str(mask)): number for number, (image, mask) in enumerate(found)}

    def write(self, file: h5py.File) -> None:
        """Write the table into an empty file."""
        file.attrs.update({"format": np.bytes_(FORMAT), "version": VERSION, "channels": self.origin["data.channels"]})
        file["contents"] = text = np.frombuffer(self._text(), np.uint8)
        file["contents"].attrs[CHECKSUM] = checksum(text)

    @classmethod
    def read(cls, file: h5py.File) -> "Contents":
        """Read the table from a file. Raises h5py's errors for a damaged one, ValueError for one that is not a pack."""
        if file.attrs.get("format") != FORMAT.encode():
            raise ValueError("it was not written by `farcluss pack`")
        if file.attrs["version"] != VERSION:
            raise ValueError(f"its format is {file.attrs['version']}, this farcluss reads {VERSION}")
        table = json.loads(read_checked(file["contents"]).tobytes())
        table["palette"] = tuple(map(tuple, table["palette"]))
        table["items"] = tuple(Item(*item) for item in table["items"])
        return cls(
            **table | {"classes": tuple(table["classes"]), "defaults": _DEFAULTS.validate_python(table["defaults"])}
        )

    def room(self) -> int:
        """Estimate, on the high side, of its bytes in the file."""
        return 2 * len(self._text())

    def _text(self) -> bytes:
        table = {name: value for name, value in vars(self).items() if name not in ("images", "masks")}
        table["items"] = [(item.id, item.image, item.mask, item.group) for item in self.items]
        table["defaults"] = _DEFAULTS.dump_python(self.defaults, mode="json")
        return json.dumps(table, sort_keys=True).encode()


class Handle:
    """An HDF5 file to read, opened by each process on first use.

    A process forked while its parent has the file open would share HDF5's state of it. So all handles are closed before
    a fork, and a pickled one is closed.
    """

    def __init__(self, path: Path) -> None:
        """Store the path; nothing is opened yet."""
        self.path = path
        self._file: h5py.File | None = None
        self._pid = 0

    def __call__(self) -> h5py.File:
        """The open file. Raises DataError when there is none, or HDF5 cannot read it."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_file(self.path), os.getpid()
            _OPEN.add(self)
        return self._file

    def close(self) -> None:
        """Close it, until it is needed again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_pid": 0}


_OPEN: WeakSet[Handle] = WeakSet()


def _close_all() -> None:
    for handle in list(_OPEN):
        handle.close()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_close_all)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as an HDF5 file does."""
    return _begin(path).startswith(SIGNATURE)


def _begin(path: Path) -> bytes:
    if other := not_a_file(path):
        raise DataError(f"{path} is {other}. Give a file that `farcluss pack` wrote.")
    with path.open("rb") as file:
        return file.read(len(SIGNATURE) + 1)


def open_file(path: Path) -> h5py.File:
    """An HDF5 file to read. Raises DataError with the reason if it cannot be opened."""
    try:
        if _begin(path) in {SIGNATURE + bytes([old]) for old in range(2)}:  # damaged, it could hold HDF5 for ever
            raise DataError(
                f"{path} has HDF5's older format, without checksums, which this `farcluss pack` does not write.\n"
                "Pack the data set again."
            )
        return h5py.File(path, "r", locking=False)  # nobody writes into it, and some file systems have no locks
    except FileNotFoundError:
        raise DataError(
            f"There is no file {path}.\nMake it with `farcluss pack`, or read the original files with --set data.pack="
        ) from None
    except OSError as error:
        reason = "it was not written by `farcluss pack`" if "file signature" in str(error) else error
        raise DataError(f"{path} cannot be opened: {reason}.\nGive a file that `farcluss pack` wrote.") from None


class Pack:
    """A data set in one file, see `farcluss.data.base.Dataset`; the files that it was made from are not needed.

    Attributes:
        carried: section `[data]` for weights files; `open_pack` gives it where the data set that was packed had one.
    """

    carried: Data

    def __init__(self, path: Path) -> None:
        """Read the table of contents.

        Raises:
            DataError: the file is missing, damaged, incomplete or not a pack.
        """
        self.path = Path(os.path.abspath(path))
        with open_file(self.path) as file:
            try:
                self.contents = Contents.read(file)
                if "sizes" not in file:
                    raise ValueError("it is incomplete")
                self._sizes = [tuple(extent for extent in row if extent) for row in file["sizes"][()].tolist()]
                self._valid = {int(name) for name in file["valid"]}
                self._valid_pixels, self._class_pixels = (read_checked(file[name]) for name in PIXELS)
            except DAMAGE as error:
                text = f"{path} cannot be used: {_reason(error)}."
                raise DataError(f"{text}\nPack the data set again with `farcluss pack`.") from None
        self.classes, self.defaults = self.contents.classes, self.contents.defaults
        self.palette: Palette = self.contents.palette
        self._handle = Handle(self.path)

    def items(self, split: str) -> list[Item]:
        """Items of a split. Raises DataError when the data set had none."""
        if split not in self.contents.splits:
            known = ", ".join(self.contents.splits)
            text = self.contents.missing.get(split, f"This data set has no {split!r} images; it has {known}.")
            raise DataError(text)
        return [self.contents.items[place] for place in self.contents.splits[split]]

    def parse(self, line: str) -> Item:
        """The item of a list line. Raises DataError: see `parse_group`; or the line names several."""
        items = self.parse_group(line)
        if len(items) > 1:
            raise DataError(f"{line.strip()!r} names {len(items)} images; name one of them, such as {items[0].id}.")
        return items[0]

    def parse_group(self, line: str) -> list[Item]:
        """The items of a list line, as the data set would find them: by image, image and mask, or identifier.

        Raises:
            DataError: the line names no image of the pack.
            MissingMask: the line names a mask that is not in the pack, and that counts or is the only one.
        """
        text = line.strip()
        for image, mask in [(text, ""), *pairs(text)]:
            places = next((self.contents.lines[n] for n in self._spellings(image) if n in self.contents.lines), ())
            items = [self.contents.items[place] for place in places]
            if items:
                return [self._with_mask(item, mask) for item in items] if mask else items
        raise DataError(f"{text!r} names no image of {self.path}. Pack the data set with that list.")

    def _with_mask(self, item: Item, mask: str) -> Item:
        names = self._spellings(mask)
        known = next((name for name in names if (item.image, name) in self.contents.masks), None)
        if known is not None:
            return replace(item, mask=known)
        if item.mask is None or self.contents.lists_decide:
            raise MissingMask(f"the mask {mask} is not in {self.path}. Pack the data set with that list.", [item])
        return item

    def _spellings(self, name: str) -> list[str]:
        """A path as the pack may know it: as it is, relative to the root, and without a slash before it."""
        path = PurePath(name)
        inside = path.relative_to(self.contents.root) if path.is_relative_to(self.contents.root) else path
        return [name, *(os.path.normpath(p).replace(os.sep, "/") for p in (inside, str(path).lstrip("/" + os.sep)))]

    def has_valid(self, number: int) -> bool:
        """Whether an image, by its number, has pixels that are not valid."""
        return number in self._valid

    def size(self, item: Item) -> tuple[int, ...]:
        """Spatial size `(*S)`; opens nothing."""
        return self._sizes[self._number(item)]

    def pixel_counts(self, item: Item) -> NDArray[np.int64]:
        """Numbers `(1 + C,)` of valid pixels, and of those of each class; opens nothing."""
        counts = np.zeros(1 + len(self.classes), np.int64)
        counts[0] = self._valid_pixels[self._number(item)]
        if item.mask is not None:
            counts[1:] = self._class_pixels[self.contents.masks[item.image, item.mask]]
        return counts

    def _number(self, item: Item) -> int:
        if item.image not in self.contents.images:
            raise DataError(f"{item.image} is not in {self.path}.")
        return self.contents.images[item.image]

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Arrays of an item, or of a window of it; only chunks of the window are read.

        Raises:
            DataError: the file is damaged; names item and file.
        """
        number = self._number(item)
        inside = (...,) if window is None else window
        file = self._handle()
        try:
            image = file[f"images/{number}"][(slice(None), *inside)]
            mask = valid = None
            if item.mask is not None:
                mask = file[f"masks/{self.contents.masks[item.image, item.mask]}"][inside]
            if number in self._valid:
                valid = file[f"valid/{number}"][inside]
        except DAMAGE as error:
            raise DataError(
                f"{self.path}: item {item.id} cannot be read: {_reason(error)}.\n"
                "`farcluss pack --verify` lists all damaged items; pack the data set again."
            ) from None
        return Sample(image, mask, valid)


def read_checked(stored: h5py.Dataset) -> NDArray[Any]:
    """A whole array. Raises h5py's errors for a damaged one, ValueError for a wrong checksum."""
    array: NDArray[Any] = stored[()]
    if stored.attrs[CHECKSUM] != checksum(array):
        raise ValueError(f"{stored.name} does not match its checksum")
    return array


def is_damaged(file: h5py.File, name: str) -> bool:
    """Whether an array is missing, cannot be read or does not match its checksum."""
    try:
        read_checked(file[name])
    except DAMAGE:
        return True
    return False


def _reason(error: Exception) -> str:
    return str(error.args[0] if error.args else error).partition("\n")[0].rstrip(".")


def open_pack(data: Data, origin: dict[str, Any]) -> Pack:
    """The pack of a recipe.

    Args:
        data: its section; `palette` applies to a pack too.
        origin: keys that the recipe's pixels depend on, see `farcluss.learning.build.data_origin`.

    Raises:
        DataError: it cannot be read, or was made from something else; names what differs.
    """
    assert data.pack is not None
    pack = Pack(data.pack)
    made, carried = pack.contents.origin, pack.contents.carried
    if data.channels is None:  # any number will do
        origin = origin | {"data.channels": made.get("data.channels")}
    if carried and origin == pack.contents.carried_origin:  # a recipe from weights trained on this pack
        made = origin
    other = [key for key in dict.fromkeys([*made, *origin]) if made.get(key) != origin.get(key)]
    if other:
        shown = "; ".join(f"{key} was {_short(made.get(key))}, is {_short(origin.get(key))}" for key in other[:3])
        more = f"; and {len(other) - 3} other keys" if len(other) > 3 else ""
        raise DataError(
            f"{data.pack} was packed from a recipe with other data: {shown}{more}.\n"
            "Pack this recipe, or read the original files with --set data.pack="
        )
    pack.palette = recipe_palette(data, len(pack.classes)) or pack.palette
    if carried:
        stored = Data.model_validate(carried)
        pack.carried = data.model_copy(update={key: getattr(stored, key) for key in carried})
    return pack


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
