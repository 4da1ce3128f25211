"""Writing a pack: all images and masks of a data set, decoded, in one HDF5 file that appears once it is complete."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Dataset, Item, Palette, Sample, Window, defaults_of
from farcluss.data.pack import CHECKSUM, DAMAGE, PIXELS, Contents, checksum, chunk_shape, is_hdf5, read_checked
from farcluss.data.splits import resolve
from farcluss.data.weighting import count_pixels
from farcluss.errors import DataError, FarclussError, PluginError
from farcluss.inference.evaluation import read_images
from farcluss.learning.build import build_dataset, carried_keys, data_origin
from farcluss.recipes.model import Data
from farcluss.runs.atomic import UNFINISHED, rename_durably
from farcluss.runs.outputs import replaced

SPLITS = ("train", "val", "test")
FLUSH_EVERY = 16
"""Images between two flushes: few enough for HDF5 to cache their metadata, so the file on disk stays consistent."""

RESERVE = 1 << 20
"""Bytes kept free on the disk for what HDF5 writes besides the arrays of an image."""

Compression = Literal["none", "lzf"]


@dataclass
class RecordingDataset:
    """Wraps a data set and records which items each line of a list names."""

    dataset: Dataset
    lines: dict[str, list[Item]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the data set."""
        return self.dataset.classes

    @property
    def palette(self) -> Palette:
        """Of the data set."""
        return self.dataset.palette

    def items(self, split: str) -> list[Item]:
        """Of the data set."""
        return self.dataset.items(split)

    def parse(self, line: str) -> Item:
        """Of the data set."""
        return self.dataset.parse(line)

    def parse_group(self, line: str) -> list[Item]:
        """The items that a line names; records them."""
        group = getattr(self.dataset, "parse_group", None)
        items = self.lines[line.strip()] = group(line) if group else [self.dataset.parse(line)]
        return items

    def size(self, item: Item) -> tuple[int, ...]:
        """Of the data set."""
        return self.dataset.size(item)

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Of the data set."""
        return self.dataset.read(item, window)


def collect(data: Data) -> tuple[Dataset, Contents, list[Item]]:
    """Collect what has to be packed.

    Returns:
        The data set; the contents of its pack, with names relative to `data.root`; and the items to read, one per pair
        of image and mask, in the order of the contents.

    Raises:
        FarclussError: the recipe's data set or lists are invalid, as in training.
    """
    data = data.model_copy(update={"pack": None, "palette": None})
    dataset = build_dataset(data)
    if hasattr(dataset, "place"):
        raise DataError(
            f"The layout {data.layout.name} chooses its own crop positions, which a pack cannot do.\n"
            "Train on the files instead."
        )
    known, recorder = defaults_of(dataset), RecordingDataset(dataset)
    chosen = resolve(recorder, data)
    splits, missing = dict[str, list[Item]](), dict[str, str]()
    for split in SPLITS:
        try:
            splits[split] = dataset.items(split)
        except DataError as error:
            missing[split] = str(error)
    used = [item for items in splits.values() for item in items]
    listed = [item for items in recorder.lines.values() for item in items]
    used += [*chosen.labeled, *chosen.unlabeled, *chosen.val, *listed]
    root = Path(os.path.abspath(data.root))
    firsts = {item.image: item for item in reversed(used)}
    if twins := next(((item, firsts[item.image]) for item in used if item.id != firsts[item.image].id), None):
        raise PluginError(
            f"{type(dataset).__name__} uses the image {twins[0].image} for the items {twins[1].id} and {twins[0].id}.\n"
            "A pack identifies items by their image, so each item needs its own."
        )
    lines = {line: [item] for image in dict.fromkeys(item.image for item in used)
             for line, item in accepted_names(dataset, firsts[image], root).items()} | recorder.lines  # fmt: skip
    named = [item for items in lines.values() for item in items]
    index = {item: number for number, item in enumerate(dict.fromkeys([*used, *named]))}
    contents = Contents(
        data_origin(data.with_defaults(known)),
        root.as_posix(),
        bool(getattr(dataset, "lists_decide", False)),
        tuple(dataset.classes),
        tuple(tuple(color) for color in dataset.palette),  # type: ignore[misc]
        tuple(_renamed(item, root) for item in index),
        {split: [index[item] for item in items] for split, items in splits.items()},
        missing,
        {line: [index[item] for item in items] for line, items in lines.items()},
        *carried_keys(dataset),
        known,
    )
    return dataset, contents, items_to_read(list(index))


def accepted_names(dataset: Dataset, item: Item, root: Path) -> dict[str, Item]:
    """The names that a list may use for an image, each with the item that the data set returns for it.

    Its mask may differ from the one in a split, as for VOC's coarsely annotated images.
    """
    parts = PurePosixPath(item.id).parts
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    candidates = [item.image, relative(item.image, root), item.id, *tails, tails[-1].rpartition("_")[0]]
    found = {}
    for name in dict.fromkeys(filter(None, candidates)):
        try:
            parsed = dataset.parse(name)
        except Exception:  # a plugin may fail in any way on a text that is not a line of its lists
            continue
        if parsed.image == item.image:
            found[name] = parsed
    absolute = found.pop(item.image, item)  # the files may be elsewhere when the pack is used
    return {item.id: absolute, relative(item.image, root): absolute} | found


def relative(name: str, root: Path) -> str:
    """A path below `root` relative to it; anything else unchanged."""
    return Path(name).relative_to(root).as_posix() if Path(name).is_relative_to(root) else name


def _renamed(item: Item, root: Path) -> Item:
    return replace(item, image=relative(item.image, root), mask=item.mask and relative(item.mask, root))


def items_to_read(items: list[Item]) -> list[Item]:
    """The items to read: each image with each of its masks, or once without a mask."""
    masks: dict[str, dict[str | None, Item]] = {}
    for item in items:
        masks.setdefault(item.image, {}).setdefault(item.mask, item)
    return [item for found in masks.values() for item in found.values() if item.mask is not None or len(found) == 1]


class Packing:
    """Writes one pack; iterating it yields the number of items stored so far.

    Attributes:
        total: number of items to read.
        done: items stored so far, including those of an interrupted run.
        notes: messages about an unfinished file.
    """

    def __init__(self, data: Data, output: Path, compression: Compression = "none", overwrite: bool = False) -> None:
        """Collect what has to be packed.

        Raises:
            FarclussError: `output` cannot be written or is an input, or the recipe's data set or lists are invalid.
        """
        if not output.parent.is_dir():
            raise DataError(f"{output.parent} is not a folder. Create it, or choose another with -o.")
        if output.is_dir():
            raise DataError(f"{output} is a folder. Give a file name, such as {output / 'data.h5'}.")
        if output.exists() and not overwrite:
            raise DataError(f"{output} exists already. Use --overwrite, or another name.")
        if output.exists() and not is_hdf5(output):
            raise DataError(f"{output} is no pack, so it is not overwritten. Give another name with -o.")
        self.output, self.part = output, output.with_name(output.name + UNFINISHED)
        self.compression = None if compression == "none" else compression
        self.workers = data.workers
        self.dataset, self.contents, self.items = collect(data)
        names = (name for item in self.items for name in (item.image, item.mask) if name)
        if replaced([output], (file for name in names for file in (name, name.partition("#")[0]))):  # FILE#SLICE
            raise DataError(f"{output} is a file of this data set: it would be replaced. Give another name with -o.")
        self.total, self.done = len(self.items), 0
        self.sizes: dict[int, tuple[int, ...]] = {}
        self.valid, self.pixels = dict[int, Any](), dict[int, Any]()  # pixel counts, by number of image and mask
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[int]:
        """Store what is missing, then rename the unfinished file to `output`.

        Raises:
            DataError: an image cannot be read or the file cannot be written. The unfinished file keeps what is stored.
        """
        file = self._resume() or self._start()
        yield self.done
        try:
            for item, sample in read_images(self.dataset, self.items[self.done :], self.workers):
                if isinstance(sample, FarclussError):
                    raise sample
                with self._writing():
                    self._store(file, item, sample)
                yield self.done
            with self._writing():
                self._finish(file)
        finally:
            _close(file)

    def _name(self, item: Item) -> Item:
        return _renamed(item, Path(self.contents.root))

    def _start(self) -> h5py.File:
        with self._writing():
            self.part.unlink(missing_ok=True)
            file = h5py.File(self.part, "w-")
            self._reserve(file, self.contents.room())
            self.contents.write(file)
            for name in ("images", "masks", "valid"):
                file.create_group(name)
            file.attrs["compression"] = self.compression or "none"
            file.flush()
        return file

    def _resume(self) -> h5py.File | None:
        """The unfinished file, its contents verified; None when there is no usable one.

        Raises:
            DataError: another process is writing it.
        """
        if not self.part.exists():
            return None
        try:
            file = h5py.File(self.part, "r+")
        except OSError as error:
            if "unable to lock" in str(error):
                raise DataError(f"{self.part} is being written by another process. Wait for it, or stop it.") from None
            self.notes.append(f"{self.part} of an interrupted run cannot be opened; starting over.")
            return None
        try:
            same = Contents.read(file) == self.contents
            if same and file.attrs["compression"] == (self.compression or "none"):
                self._recover(file)
                self.notes.append(f"{self.part} holds {self.done} of {self.total} images already; continuing.")
                return file
            self.notes.append(f"{self.part} belongs to other data or another compression; starting over.")
        except (OSError, RuntimeError, KeyError, ValueError, TypeError):
            self.notes.append(f"{self.part} of an interrupted run is damaged; starting over.")
        self.done = 0
        _close(file)
        return None

    def _recover(self, file: h5py.File) -> None:
        """Count the leading items that are stored intact; remove everything after them."""
        for item in self.items:
            try:
                self._record(item, self._stored(file, item))
            except DAMAGE:
                break
        kept = {name for item in self.items[: self.done] for name in self._locate(item)[1]}
        kept |= {name.replace("images", "valid") for name in kept}
        for name in [f"{group}/{number}" for group in ("images", "masks", "valid") for number in file[group]]:
            if name not in kept:
                del file[name]
        file.pop("sizes", None)
        file.pop("pixels", None)

    def _stored(self, file: h5py.File, item: Item) -> Sample:
        """The stored sample of an item. Raises one of `DAMAGE` where something is missing or damaged."""
        number, names = self._locate(item)
        image, *masks = (read_checked(file[name]) for name in names)
        valid = read_checked(file[f"valid/{number}"]) if f"valid/{number}" in file else None
        return Sample(image, masks[0] if masks else None, valid)

    def _record(self, item: Item, sample: Sample) -> None:
        """Count a stored item, and keep its size and pixel counts for the tables at the end."""
        name = self._name(item)
        number = self.contents.images[name.image]
        self.sizes[number] = sample.image.shape[1:]
        self.valid[number], *classes = self._count(item, sample)
        if name.mask is not None:
            self.pixels[self.contents.masks[name.image, name.mask]] = classes
        self.done += 1

    def _count(self, item: Item, sample: Sample) -> NDArray[np.int64]:
        """Pixel counts as the data set itself counts them, if it does, so that packing does not change what is drawn.

        The valid pixels are counted as those of an unlabeled image.
        """
        if not hasattr(self.dataset, "pixel_counts"):
            return count_pixels(sample.image.shape[1:], sample.mask, sample.valid, len(self.contents.classes))
        counts: NDArray[np.int64] = self.dataset.pixel_counts(item)
        if item.mask is not None:
            counts[0] = self.dataset.pixel_counts(replace(item, mask=None))[0]
        return counts

    def _locate(self, item: Item) -> tuple[int, list[str]]:
        """Number of an image, and the names of the HDF5 data sets of it and its mask."""
        name = self._name(item)
        number = self.contents.images[name.image]
        mask = [] if name.mask is None else [f"masks/{self.contents.masks[name.image, str(name.mask)]}"]
        return number, [f"images/{number}", *mask]

    def _store(self, file: h5py.File, item: Item, sample: Sample) -> None:
        """Store the arrays of an item that are not stored yet, the image last.

        An image with several masks is read more than once.
        """
        number, names = self._locate(item)
        axes = sample.image.ndim - 1
        self._reserve(file, sum(array.nbytes for array in sample if array is not None))
        arrays: list[tuple[str, NDArray[Any] | None]] = [
            (f"valid/{number}", sample.valid), *((name, sample.mask) for name in names[1:]), (names[0], sample.image),
        ]  # fmt: skip
        for name, array in arrays:
            if array is not None and name not in file:
                chunks = chunk_shape(array.shape, array.itemsize, axes)
                stored = file.create_dataset(name, data=array, chunks=chunks, compression=self.compression)
                stored.attrs[CHECKSUM] = checksum(array)
        self._record(item, sample)
        if self.done % FLUSH_EVERY == 0:
            file.flush()

    def _reserve(self, file: h5py.File, size: int) -> None:
        """Allocate space for `size` more bytes, or raise OSError: HDF5 crashes the process when a write fails.

        Twice as many, since chunks at the edges are stored whole and each has an entry in an index.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        end = file.id.get_filesize() + 2 * size + RESERVE
        with self.part.open("rb+") as part:
            if (have := os.fstat(part.fileno()).st_size) < end:
                os.posix_fallocate(part.fileno(), have, end - have)

    def _finish(self, file: h5py.File) -> None:
        rows = [self.sizes[number] for number in range(len(self.contents.images))]
        axes = max(map(len, rows))
        for name, counts in zip(PIXELS, (self.valid, self.pixels), strict=True):
            table = np.array([counts[number] for number in sorted(counts)], np.int64)
            self._reserve(file, table.nbytes)
            file[name] = table
            file[name].attrs[CHECKSUM] = checksum(table)
        file["sizes"] = np.array([(*row, *[0] * (axes - len(row))) for row in rows], np.int64)
        file.flush()
        used = file.id.get_filesize()
        file.close()
        with self.part.open("rb+") as part:
            part.truncate(min(used, os.fstat(part.fileno()).st_size))  # drop the unused allocation
            os.fsync(part.fileno())
        rename_durably(self.part, self.output)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn write errors into a DataError with the system's reason, which HDF5 wraps in several lines of its own."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            match = re.search(r"error message = '([^']*)'", str(error))
            strerror = error.strerror if isinstance(error, OSError) else None
            reason = match[1] if match else strerror or str(error).partition("\n")[0]
            raise DataError(
                f"{self.part} cannot be written: {reason}.\n"
                "Free space, or choose another path with -o; the same command continues where this one stopped."
            ) from None


def _close(file: h5py.File) -> None:
    try:
        file.close()
    except (OSError, RuntimeError):  # a full disk, which has already been reported
        pass
