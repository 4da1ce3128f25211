"""Random scale, crop and flip: cut the window from the source first, then resize, so that the work follows the crop."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from farcluss.data.base import IGNORE, Dataset, Item, Sample, Window, read_sample


def random_window(
    size: tuple[int, ...], crop: tuple[int, ...], scale: tuple[float, float], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Where a crop lies in an image of `size`: one (start, length) per axis, possibly beyond the image.

    A crop of `c` pixels at scale `s` shows `c / s` pixels of the source. Where the source is smaller, the window
    extends beyond it, by a random share on each side.
    """
    factor = rng.uniform(*scale)
    place = []
    for extent, side in zip(size, crop, strict=True):
        length = max(1, round(side / factor))
        room = extent - length
        place.append((int(rng.integers(min(room, 0), max(room, 0) + 1)), length))
    return place


def read_window(dataset: Dataset, item: Item, place: list[tuple[int, int]], mean: list[float]) -> Sample:
    """Read a window that may extend beyond the image: outside, the image is `mean` and nothing is valid."""
    size = dataset.size(item)
    inside = [(max(start, 0), min(start + length, extent)) for (start, length), extent in zip(place, size, strict=True)]
    window: Window = tuple(slice(*bounds) for bounds in inside)
    sample = read_sample(dataset, item, window)
    lengths = [length for _, length in place]
    valid = np.ones(sample.image.shape[1:], bool) if sample.valid is None else sample.valid
    if list(sample.image.shape[1:]) == lengths:
        return sample._replace(valid=valid)
    pads = [(low - start, start + length - high) for (start, length), (low, high) in zip(place, inside, strict=True)]
    image = np.empty((sample.image.shape[0], *lengths), sample.image.dtype)
    fill = np.array(mean).reshape(-1, *[1] * len(lengths))
    image[:] = (fill * 255).round() if image.dtype == np.uint8 else fill
    image[(slice(None), *(slice(a, n - b) for (a, b), n in zip(pads, lengths, strict=True)))] = sample.image
    mask = None if sample.mask is None else np.pad(sample.mask, pads, constant_values=IGNORE)
    return Sample(image, mask, np.pad(valid, pads, constant_values=False))


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
    places = [
        ((np.arange(n) + 0.5) * old / n).astype(np.int64) for n, old in zip(size, sample.image.shape[1:], strict=True)
    ]
    mask = None if sample.mask is None else pick(sample.mask, places)
    return Sample(image, mask, None if sample.valid is None else pick(sample.valid, places))


def pick(array: NDArray[Any], places: list[NDArray[np.int64]]) -> NDArray[Any]:
    """What `array[np.ix_(*places)]` gives, in an eighth of its time: one axis after the other, the last one first."""
    for axis in reversed(range(array.ndim)):
        array = array.take(places[axis], axis)
    return array


def draw_crop(
    dataset: Dataset,
    item: Item,
    crop: tuple[int, ...],
    scale: tuple[float, float],
    flip: float,
    mean: list[float],
    rng: np.random.Generator,
) -> Sample:
    """One training crop of `item`: random scale and place, then a horizontal flip by chance `flip`.

    Returns:
        Arrays of spatial size `crop`; `valid` is always given, False beyond the image; pixels there have the value
        `mean`.
    """
    place = random_window(dataset.size(item), crop, scale, rng)
    flipped = rng.uniform() < flip
    sample = read_window(dataset, item, place, mean)
    sample = resize(sample, crop)
    if flipped:
        sample = Sample(*(None if array is None else array[..., ::-1] for array in sample))  # type: ignore[arg-type]
    return sample
