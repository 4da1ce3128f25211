"""The interface of a data set: items, and the arrays of an item."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from farcluss.data.accounting import Account
from farcluss.errors import FAILURES, DataError, FarclussError, PluginError, short
from farcluss.recipes.model import Data as Data  # for plugins, which need no other module for a data set
from farcluss.recipes.model import Defaults as Defaults

IGNORE = 255
"""The one ignore value of every mask that leaves a data set."""

Window = tuple[slice, ...]
"""One slice per spatial axis, inside the image."""

Palette = tuple[tuple[int, int, int], ...]
"""One RGB color per class."""


@dataclass(frozen=True)
class Item:
    """One image of a data set.

    Attributes:
        id: identifier, unique in the data set and independent of where its root lies.
        image: source that the data set reads the image from (for files, the path).
        mask: source that it reads the mask from; None for an image without a mask.
        group: unit that must not be split between training and held-out images, such as a patient; empty if the
            image is its own unit. Shares are drawn by group.
    """

    id: str
    image: str
    mask: str | None = None
    group: str = ""

    @property
    def unit(self) -> str:
        """The group, or the image where it has none."""
        return self.group or self.image


class MissingMask(DataError):
    """A list names a mask that does not exist; `items` are of the image without it, which may still be unlabeled."""

    def __init__(self, text: str, items: Sequence[Item]) -> None:
        super().__init__(text)
        self.items = items


class Sample(NamedTuple):
    """The arrays of one item, or of a window of it.

    Attributes:
        image: `(Cin, *S)`, uint8, or float32 for deeper data: in [0, 1], or in any range that the recipe's mean and
            std match. Finite everywhere, also at invalid pixels: convolutions read those too, and one NaN spreads.
        mask: `(*S)` uint8, class index or `IGNORE`; None for an item without a mask.
        valid: `(*S)` bool, False at nodata; None when every pixel is valid. Invalid pixels count neither in training
            nor in scores, whatever their mask value.
    """

    image: NDArray[np.uint8] | NDArray[np.float32]
    mask: NDArray[np.uint8] | None = None
    valid: NDArray[np.bool_] | None = None


class Reduced(NamedTuple):
    """A window of an item with a downsampled image: each of its pixels is the mean of a square; all are valid.

    Attributes:
        image: `(Cin, *s)`.
        box: per axis, start and end of the window in `image`, possibly at fractions of a pixel.
        mask: `(*S)` of the window, at full resolution; None for an item without a mask.
    """

    image: NDArray[np.uint8]
    box: tuple[tuple[float, float], ...]
    mask: NDArray[np.uint8] | None


class Dataset(Protocol):
    """A data set, as built by an entry point of the group `farcluss.dataset`.

    The entry point is called with the recipe's `[data]` section and the layout's own options, keyword-only. Reading
    happens in worker processes: keep no open handles in the object.

    Optional members are used where they exist:

    - `read_reduced(item, window, factor) -> Reduced | None`, for `data.jpeg_draft`;
    - `place(item, lengths, rng) -> tuple[int, ...] | None`: start of a crop of `lengths` pixels, per axis; None means
      a random place. Items of the unlabeled stream come without their mask;
    - `parse_group(line) -> list[Item]`: the items of a list line, which may name several;
    - `account(items) -> Account`: which entries of its folders are not used where these items are, and why;
    - `findings() -> list[str]`: what `farcluss check` reports besides unreadable items;
    - `oddities(items) -> list[str]`: warnings of `farcluss check` about files that look wrong together;
    - `risks(splits) -> list[str]`: a line for each kind of finding that `farcluss run` should warn of too, as far as it
      is known without much reading;
    - `pixel_counts(item) -> NDArray[np.int64]`, for `data.draw = "balanced"`: `(1 + classes,)`, the number of valid
      pixels of the item, then of those of each class (zeros for an item without a mask). They may be estimates, as only
      ratios matter. Items of the unlabeled stream come without their mask; one without a valid
      pixel is never drawn;
    - `defaults`: what the data set knows about its images, for keys that recipes leave unset, see `Defaults`;
    - `carried`: the section `[data]` as stored in weights files, with the content of files instead of names. Packs
      keep its layout, classes, ignore_index, reduce_zero_label and channels; other keys come from the recipe.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in order of index."""

    @property
    def palette(self) -> Palette:
        """One color per class."""

    def items(self, split: str) -> list[Item]:
        """Items of `split`: `"train"`, `"val"` or `"test"`. Raises DataError when there is no such split."""

    def parse(self, line: str) -> Item:
        """The item that a line of a list file names."""

    def size(self, item: Item) -> tuple[int, ...]:
        """Spatial size `(*S)` of an item, without decoding its pixels where the format allows it."""

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Arrays of `item`, or of `window` of it. Raises DataError that names the file."""


def account_of(dataset: Dataset, items: Sequence[Item]) -> Account:
    """What of its folders a data set does not use where these items are used; nothing where it does not say."""
    account: Callable[[Sequence[Item]], Account] = getattr(dataset, "account", lambda _: Account())
    return account(items)


def defaults_of(dataset: Dataset) -> Defaults:
    """What a data set knows about its images; no defaults where it does not say."""
    known: Defaults = getattr(dataset, "defaults", Defaults())
    return known


def read_sample(dataset: Dataset, item: Item, window: Window | None = None) -> Sample:
    """Read an item and check the arrays; the mask becomes `IGNORE` where the image is not valid.

    Raises:
        FarclussError: raised by the data set about its files; or the image has no pixels.
        PluginError: the data set raises another error, or returns arrays that violate `Sample`; names the item.
    """
    name = f"Data set {type(dataset).__name__}, item {item.id}"
    try:
        sample = dataset.read(item, window)
    except FarclussError:
        raise
    except FAILURES as error:
        raise PluginError(f"{name}: reading fails: {type(error).__name__}: {short(error)}.") from error
    if item.mask is None:  # synthetic data sets return it all the same
        sample = sample._replace(mask=None)
    image, mask = sample.image, sample.mask
    _refuse_no_pixels(dataset, item, image)
    if image.dtype not in (np.uint8, np.float32):
        raise PluginError(f"{name}: the image is {image.dtype}; it must be uint8 or float32.")
    for what, array in (("mask", mask), ("valid", sample.valid)):
        if array is not None and array.shape != image.shape[1:]:
            raise PluginError(f"{name}: {what} has shape {array.shape}, but the image has {image.shape}.")
    if mask is None and item.mask is not None:
        raise PluginError(f"{name}: reading returned no mask, although the item has one.")
    if mask is not None and ((mask >= len(dataset.classes)) & (mask != IGNORE)).any():
        raise PluginError(
            f"{name}: the mask holds {mask[mask != IGNORE].max()}, but there are {len(dataset.classes)} classes."
        )
    if mask is not None and sample.valid is not None:
        sample = sample._replace(mask=np.where(sample.valid, mask, np.uint8(IGNORE)))
    return sample


def _refuse_no_pixels(dataset: Dataset, item: Item, image: NDArray[Any]) -> None:
    """Raise DataError for an image without pixels; a window may be empty."""
    if not image.size and 0 in (size := dataset.size(item)):
        raise DataError(f"{item.image} has no pixels: its size is {' x '.join(map(str, size))}. Take it out.")
