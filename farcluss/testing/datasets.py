"""Tester of data sets."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from farcluss.data.base import IGNORE, Dataset, Item, Sample
from farcluss.errors import DataError
from farcluss.plugins.signatures import REQUIRED, describe_object
from farcluss.recipes.model import Data


class DatasetTester:
    """Tests of a data set; subclass it. For files, set `data` to a section whose `root` holds a few of them.

    Attributes:
        dataset: the object of the entry point: a class or a function that returns the data set.
        options: its options, as in a recipe.
        data: the `[data]` section to build it with.
        splits: splits that it must have.
        channels: image channels Cin.
        unit_range: whether its float images lie in [0, 1]; False if the recipe's mean and std are for another range.
    """

    dataset: ClassVar[Callable[..., Any]]
    options: ClassVar[dict[str, Any]] = {}
    data: Data = Data()
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    channels: ClassVar[int] = 3
    unit_range: ClassVar[bool] = True

    def build(self) -> Dataset:
        """A new data set, with options validated as in a recipe."""
        valid, wrong = describe_object(type(self).dataset).check("dataset", self.options)
        assert not wrong, f"options are invalid: {wrong}"
        return type(self).dataset(self.data, **valid)  # type: ignore[no-any-return]

    def some(self, dataset: Dataset) -> list[Item]:
        """First and last item of each split."""
        return [
            item for split in self.splits for item in dataset.items(split)[:: max(1, len(dataset.items(split)) - 1)]
        ]

    def line(self, item: Item) -> str:
        """The line of a list file for an item; override it if that is not the id."""
        return item.id

    def test_options_are_documented(self) -> None:
        """Every option has a default and a text in an `Args:` block, which `farcluss plugins show` prints."""
        for name, option in describe_object(type(self).dataset).options.items():
            assert option.default is not REQUIRED, f"option {name} has no default"
            assert option.help, f"option {name} has no line in the Args: block of the docstring"

    def test_classes_and_palette(self) -> None:
        """Class names are unique, fit an 8-bit mask, and each has an RGB color."""
        dataset = self.build()
        assert 2 <= len(dataset.classes) <= IGNORE, f"{len(dataset.classes)} classes; a mask holds 2 to {IGNORE}"
        assert len(set(dataset.classes)) == len(dataset.classes), "two classes have the same name"
        assert len(dataset.palette) == len(dataset.classes), "palette and classes differ in length"
        for color in dataset.palette:
            assert len(color) == 3 and all(0 <= part <= 255 for part in color), f"{color} is not an RGB color in 0..255"

    def test_items(self) -> None:
        """Splits have items with unique ids that do not name the root; an unknown split is a DataError."""
        dataset = self.build()
        items = [item for split in self.splits for item in dataset.items(split)]
        assert all(dataset.items(split) for split in self.splits), "a split is empty"
        assert len({item.id for item in items}) == len(items), "an id occurs twice in or between splits"
        assert len({item.image for item in items}) == len(items), "an image occurs twice in or between splits"
        root = str(self.data.root.absolute())
        assert not any(root in item.id for item in items), "an id contains the root; ids must not depend on it"
        assert any(item.mask for item in items), "no item has a mask"
        try:
            dataset.items("no such split")
        except DataError:
            return
        raise AssertionError("items() of an unknown split does not raise farcluss.errors.DataError")

    def test_parse(self) -> None:
        """`parse` of a line returns the same item as `items`."""
        dataset = self.build()
        for item in self.some(dataset):
            found = dataset.parse(self.line(item))
            assert found.id == item.id, f"parse({self.line(item)!r}) returns item {found.id!r}, not {item.id!r}"

    def test_shapes_and_dtypes(self) -> None:
        """Images are uint8, or float32 in range; masks hold classes or the ignore value; sizes agree."""
        dataset = self.build()
        for item in self.some(dataset):
            image, mask, valid = dataset.read(item)
            size = tuple(dataset.size(item))
            assert image.shape == (self.channels, *size), f"{item.id}: image {image.shape}, but size() says {size}"
            assert image.dtype in (np.uint8, np.float32), f"{item.id}: image is {image.dtype}, not uint8 or float32"
            finite = np.isfinite(image).all()
            assert finite, f"{item.id}: image holds NaN or infinity; it must be finite even at invalid pixels"
            if image.dtype == np.float32 and self.unit_range:
                assert 0 <= image.min() and image.max() <= 1, f"{item.id}: float image is not in [0, 1]"
            assert (mask is None) == (item.mask is None), f"{item.id}: item and sample disagree about a mask"
            if mask is not None:
                assert mask.shape == size and mask.dtype == np.uint8, f"{item.id}: mask {mask.shape} {mask.dtype}"
                unknown = set(np.unique(mask).tolist()) - {*range(len(dataset.classes)), IGNORE}
                assert not unknown, f"{item.id}: mask holds {unknown}; classes end at {len(dataset.classes) - 1}"
            if valid is not None:
                assert valid.shape == size and valid.dtype == np.bool_, f"{item.id}: valid {valid.shape} {valid.dtype}"

    def test_window(self) -> None:
        """Reading a window returns the same as cropping the whole image."""
        dataset = self.build()
        for item in self.some(dataset):
            window = tuple(slice(side // 4, max(side // 4 + 1, side // 2)) for side in dataset.size(item))
            whole, part = dataset.read(item), dataset.read(item, window)
            crop = Sample(*(None if array is None else array[(..., *window)] for array in whole))  # type: ignore[arg-type]
            same_arrays(f"{item.id}, window {window}", part, crop)

    def test_pixel_counts(self) -> None:
        """If a data set counts pixels: int64 counts, of classes at most the valid ones, none without a mask."""
        dataset = self.build()
        count = getattr(dataset, "pixel_counts", None)
        if count is None:
            return
        for item in self.some(dataset):
            counts, bare = count(item), count(replace(item, mask=None))
            shape = (1 + len(dataset.classes),)
            for found in (counts, bare):
                assert found.shape == shape and found.dtype == np.int64, (
                    f"{item.id}: pixel_counts returns {found.dtype} {found.shape}, not int64 {shape}"
                )
                assert (found >= 0).all(), f"{item.id}: pixel_counts returns negative numbers"
            assert counts[0] >= counts[1:].sum(), f"{item.id}: more pixels have a class than are valid"
            assert not bare[1:].any(), f"{item.id}: pixel_counts counts a mask that the item does not have"
            assert bare[0] == counts[0], f"{item.id}: the number of valid pixels depends on the mask"

    def test_works_in_workers(self) -> None:
        """The data set can be pickled, and the copy reads the same arrays."""
        dataset = self.build()
        try:
            copy = pickle.loads(pickle.dumps(dataset))
        except Exception as error:
            raise AssertionError(f"the data set cannot be sent to a worker process: {error}") from error
        for item in self.some(dataset):
            same_arrays(f"{item.id} in a worker", copy.read(item), dataset.read(item))


def same_arrays(name: str, found: Sample, wanted: Sample) -> None:
    """Check that two samples are equal in every array."""
    for field, a, b in zip(Sample._fields, found, wanted, strict=True):
        same = a is b if a is None or b is None else a.dtype == b.dtype and np.array_equal(a, b)
        assert same, f"{name}: {field} differs"
