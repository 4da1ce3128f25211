"""A synthetic data set: find the striped squares, and say which way the stripes run."""

import numpy as np

from farcluss.data.base import Data, Item, Sample, Window
from farcluss.errors import DataError
from farcluss.plugins.options import PositiveInt, Share

SPLITS = ("train", "val", "test")


class Stripes:
    """Noise with a square of horizontal and a square of vertical stripes in it.

    An image is a function of its split and number, so nothing is stored.

    Args:
        images: number of images per split.
        size: pixels per side.
        noise: standard deviation of the noise, as a share of the full range.
    """

    classes = ("ground", "horizontal", "vertical")
    palette = ((96, 96, 96), (230, 159, 0), (86, 180, 233))

    def __init__(self, data: Data, *, images: PositiveInt = 40, size: PositiveInt = 48, noise: Share = 0.1) -> None:
        self.channels, self.images, self.side, self.noise = data.channel_count, images, size, noise

    def items(self, split: str) -> list[Item]:
        """Items `train/0`, `train/1` and so on."""
        if split not in SPLITS:
            raise DataError(f"The stripes set has no split {split!r}; it has {', '.join(SPLITS)}.")
        return [self.parse(f"{split}/{number}") for number in range(self.images)]

    def parse(self, line: str) -> Item:
        """The item of a line such as `train/7`."""
        name = line.strip()
        split, _, number = name.partition("/")
        if split not in SPLITS or not number.isdecimal():
            raise DataError(f"{name!r} is not an image of the stripes set; write it like train/7.")
        return Item(id=name, image=name, mask=name)

    def size(self, item: Item) -> tuple[int, ...]:
        """Every image has the size of the option."""
        return self.side, self.side

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Draw an image and its mask, or a window of both."""
        split, _, number = item.image.partition("/")
        rng = np.random.default_rng([SPLITS.index(split), int(number)])
        mask = np.zeros((self.side, self.side), np.uint8)
        picture = np.full(mask.shape, 0.5)
        for kind, position in enumerate(np.mgrid[: self.side, : self.side], start=1):
            top, left = rng.integers(self.side // 2 + 1, size=2)
            square = slice(top, top + self.side // 2), slice(left, left + self.side // 2)
            mask[square] = kind
            picture[square] = position[square] % 4 < 2
        noisy = picture + rng.normal(0, self.noise, (self.channels, *mask.shape))
        image = (noisy.clip(0, 1) * 255).astype(np.uint8)
        return Sample(image, mask) if window is None else Sample(image[:, *window], mask[window])
