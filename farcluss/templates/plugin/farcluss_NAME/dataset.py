"""The data set: lists images and reads one. These are synthetic; read your files instead."""

import numpy as np

from farcluss.data.base import Data, Item, Sample, Window
from farcluss.errors import DataError
from farcluss.plugins.options import PositiveInt

SPLITS = ("train", "val", "test")


class MyDataset:
    """Dark noise with one bright square per image.

    Args:
        images: number of images per split.
        size: pixels per side.
    """

    classes = ("ground", "square")
    palette = ((96, 96, 96), (230, 159, 0))

    def __init__(self, data: Data, *, images: PositiveInt = 40, size: PositiveInt = 48) -> None:
        self.channels, self.images, self.side = data.channel_count, images, size

    def items(self, split: str) -> list[Item]:
        """Items `train/0`, `train/1` and so on."""
        if split not in SPLITS:
            raise DataError(f"There is no split {split!r}; use {', '.join(SPLITS)}.")
        return [self.parse(f"{split}/{number}") for number in range(self.images)]

    def parse(self, line: str) -> Item:
        """The item of a line of a list file."""
        name = line.strip()
        split, _, number = name.partition("/")
        if split not in SPLITS or not number.isdecimal():
            raise DataError(f"{name!r} is not an image of this data set; write it like train/7.")
        return Item(id=name, image=name, mask=name)

    def size(self, item: Item) -> tuple[int, ...]:
        """Height and width."""
        return self.side, self.side

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Image `(Cin, H, W)` and mask `(H, W)`, or a window of both."""
        split, _, number = item.image.partition("/")
        rng = np.random.default_rng([SPLITS.index(split), int(number)])
        mask = np.zeros((self.side, self.side), np.uint8)
        top, left = rng.integers(self.side // 2 + 1, size=2)
        mask[top : top + self.side // 2, left : left + self.side // 2] = 1
        noise = rng.integers(0, 120, (self.channels, *mask.shape))
        image = (noise + 100 * mask).astype(np.uint8)
        return Sample(image, mask) if window is None else Sample(image[:, *window], mask[window])
