"""Random crops, cut from the source before resizing, so that the cost depends on the crop; flips and rotations."""

from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from farcluss.data.base import IGNORE, Dataset, Item, Reduced, Sample, Window, read_sample
from farcluss.errors import PluginError
from farcluss.recipes.model import GENERAL, Data


def random_lengths(crop: tuple[int, ...], scale: tuple[float, float], rng: np.random.Generator) -> list[int]:
    """Source pixels that a crop covers, per axis: `c / s` for a crop of `c` pixels at a random scale `s`."""
    factor = rng.uniform(*scale)
    return [max(1, round(side / factor)) for side in crop]


def random_place(size: tuple[int, ...], lengths: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Where a window of `lengths` lies in an image of `size`: one (start, length) per axis, possibly beyond the image.

    Where the source is smaller, the window extends beyond it on both sides, at a random offset.
    """
    rooms = [extent - length for extent, length in zip(size, lengths, strict=True)]
    starts = [int(rng.integers(min(room, 0), max(room, 0) + 1)) for room in rooms]
    return list(zip(starts, lengths, strict=True))


def choose_place(dataset: Dataset, item: Item, lengths: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Place of a window: chosen by the data set, else random."""
    wanted = getattr(dataset, "place", None)
    starts = wanted(item, lengths, rng) if wanted else None
    return random_place(dataset.size(item), lengths, rng) if starts is None else list(zip(starts, lengths, strict=True))


def read_window(dataset: Dataset, item: Item, place: list[tuple[int, int]], mean: list[float]) -> Sample:
    """Read a window that may extend beyond the image: outside, the image is `mean` and nothing is valid.

    Raises:
        PluginError: the image has another number of channels than `mean`, which has those of the recipe.
    """
    window, pads = clip(place, dataset.size(item))
    sample = read_sample(dataset, item, window)
    if len(sample.image) != len(mean):
        raise PluginError(f"{item.image} has {len(sample.image)} channels, but data.channels is {len(mean)}.")
    lengths = [length for _, length in place]
    valid = np.ones(sample.image.shape[1:], bool) if sample.valid is None else sample.valid
    if list(sample.image.shape[1:]) == lengths:
        return sample._replace(valid=valid)
    mask = None if sample.mask is None else np.pad(sample.mask, pads, constant_values=IGNORE)
    return Sample(pad_image(sample.image, pads, mean), mask, np.pad(valid, pads, constant_values=False))


def clip(place: list[tuple[int, int]], size: tuple[int, ...]) -> tuple[Window, list[tuple[int, int]]]:
    """The part of a window that lies in an image of `size`, and how far the window extends beyond, per axis."""
    inside = [(max(start, 0), min(start + length, extent)) for (start, length), extent in zip(place, size, strict=True)]
    pads = [(low - start, start + length - high) for (start, length), (low, high) in zip(place, inside, strict=True)]
    return tuple(slice(*bounds) for bounds in inside), pads


def pad_image(image: NDArray[Any], pads: list[tuple[int, int]], mean: list[float]) -> NDArray[Any]:
    """An image `(Cin, *S)` with pixels of `mean` around it."""
    lengths = [before + extent + after for (before, after), extent in zip(pads, image.shape[1:], strict=True)]
    padded = np.empty((image.shape[0], *lengths), image.dtype)
    fill = np.array(mean).reshape(-1, *[1] * len(lengths))
    padded[:] = (fill * 255).round() if image.dtype == np.uint8 else fill
    padded[(slice(None), *(slice(a, n - b) for (a, b), n in zip(pads, lengths, strict=True)))] = image
    return padded


def read_reduced(
    dataset: Dataset, item: Item, place: list[tuple[int, int]], crop: tuple[int, ...], mean: list[float]
) -> Sample | None:
    """The crop of a window from a downsampled read of the image: mask and `valid` are exact, pixels approximate.

    None where the crop downsamples by less than 2, or the data set has no downsampled read of this item.
    """
    factor = min(length // side for (_, length), side in zip(place, crop, strict=True))
    read = getattr(dataset, "read_reduced", None)
    if factor < 2 or read is None:
        return None
    window, pads = clip(place, dataset.size(item))
    reduced: Reduced | None = read(item, window, factor)
    if reduced is None:
        return None
    around, box = [], []
    for part, (low, high), (before, after) in zip(window, reduced.box, pads, strict=True):
        scale = (high - low) / (part.stop - part.start)
        around.append((ceil(before * scale), ceil(after * scale)))
        box.append((around[-1][0] + low - before * scale, around[-1][0] + high + after * scale))
    image = pad_image(reduced.image, around, mean)
    valid = np.pad(np.ones([part.stop - part.start for part in window], bool), pads, constant_values=False)
    mask = None if reduced.mask is None else np.pad(reduced.mask, pads, constant_values=IGNORE)
    return Sample(resize_box(image, crop, box), _nearest(mask, crop), _nearest(valid, crop))


def resize_box(image: NDArray[Any], size: tuple[int, ...], box: list[tuple[float, float]]) -> NDArray[Any]:
    """A part of an image `(Cin, H, W)`, whose edges may lie within pixels, at another size, as in `resize`."""
    (top, bottom), (left, right) = box
    pictures = (Image.fromarray(channel) for channel in image)
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(p.resize(size[::-1], bilinear, (left, top, right, bottom))) for p in pictures])


def resize(sample: Sample, size: tuple[int, ...]) -> Sample:
    """A sample at another size: images by antialiased linear interpolation, masks by the nearest pixel center."""
    if sample.image.shape[1:] == size:
        return sample
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    tensor = torch.from_numpy(np.ascontiguousarray(sample.image))[None]
    if len(size) == 2:
        image = interpolate(tensor, size, mode=mode, antialias=True)[0].numpy()
    else:
        floats = interpolate(tensor.float(), size, mode=mode)[0]
        image = (floats if tensor.is_floating_point() else floats.round().to(tensor.dtype)).numpy()
    return Sample(image, _nearest(sample.mask, size), _nearest(sample.valid, size))


def _nearest(array: NDArray[Any] | None, size: tuple[int, ...]) -> NDArray[Any] | None:
    if array is None:
        return None
    return pick(
        array, [((np.arange(n) + 0.5) * old / n).astype(np.int64) for n, old in zip(size, array.shape, strict=True)]
    )


def pick(array: NDArray[Any], places: list[NDArray[np.int64]]) -> NDArray[Any]:
    """`array[np.ix_(*places)]`, eight times faster: one axis after the other, the last one first."""
    for axis in reversed(range(array.ndim)):
        array = array.take(places[axis], axis)
    return array


class Move(NamedTuple):
    """How a crop is flipped and rotated; axes are counted from the last one, which is -1.

    Attributes:
        flips: axes to flip.
        turns: then, per plane, the number of quarter turns and the two axes, from the first to the second.
    """

    flips: tuple[int, ...]
    turns: tuple[tuple[int, tuple[int, int]], ...]

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """A flipped and rotated view of an array `(..., *S)`."""
        array = np.flip(array, self.flips)
        for number, plane in self.turns:
            array = np.rot90(array, number, plane)
        return array


def random_move(crop: tuple[int, ...], data: Data, rng: np.random.Generator) -> Move:
    """Flips with probability `data.flip` along each of `data.flip_axes`, then turns in each plane of `data.turns`.

    In a plane whose sides differ, only half turns keep the size `crop`.
    """
    axes = len(crop)
    flip_axes = GENERAL.flip_axes if data.flip_axes is None else data.flip_axes
    flips = [axis % axes - axes for axis in flip_axes or [] if rng.uniform() < data.flip]
    turns = []
    for first, second in data.turns or []:
        step = 1 if crop[first] == crop[second] else 2
        turns.append((step * int(rng.integers(4 // step)), (first % axes - axes, second % axes - axes)))
    return Move(tuple(flips), tuple(turns))


def draw_crop(
    dataset: Dataset, item: Item, crop: tuple[int, ...], data: Data, rng: np.random.Generator, blind: bool = False
) -> Sample:
    """One training crop of `item`: random scale and place, then random flips and turns, as `data` says.

    With `data.jpeg_draft`, images that are downsampled by at least 2 are read at lower resolution where the data set
    can do that. With `blind`, the place of the crop is chosen without looking at the mask.

    Returns:
        Arrays of spatial size `crop`; `valid` is always set and False outside the image, where pixels have the value
        `data.channel_mean`.
    """
    mean = data.channel_mean
    placed = replace(item, mask=None) if blind else item
    place = choose_place(dataset, placed, random_lengths(crop, data.scale, rng), rng)
    move = random_move(crop, data, rng)
    sample = read_reduced(dataset, item, place, crop, mean) if data.jpeg_draft else None
    if sample is None:
        sample = resize(read_window(dataset, item, place, mean), crop)
    return Sample(*(None if array is None else move(array) for array in sample))  # type: ignore[arg-type]
