"""A three-dimensional data set of two channels: bright cubes in the dark."""

import numpy as np

from farcluss.data.base import Item, Sample
from farcluss.errors import DataError


class Cubes:
    classes = ("dark", "cube")
    palette = ((0, 0, 0), (255, 255, 255))

    def __init__(self, data):
        self.data = data

    def items(self, split):
        if split not in ("train", "val"):
            raise DataError(f"There are no {split} cubes.")
        offset = {"train": 0, "val": 100}[split]
        return [self.parse(str(offset + index)) for index in range(8 if split == "train" else 2)]

    def parse(self, line):
        return Item(line, line, line)

    def size(self, item):
        return 8, 10, 12

    def read(self, item, window=None):
        rng = np.random.default_rng(int(item.image))
        mask = np.zeros((8, 10, 12), np.uint8)
        start = rng.integers(0, 4, 3)
        mask[tuple(slice(s, s + 4) for s in start)] = 1
        image = (rng.normal(0.3, 0.05, (2, *mask.shape)) + 0.4 * mask).clip(0, 1).astype(np.float32)
        if window is None:
            return Sample(image, mask)
        return Sample(image[:, *window], mask[window])
