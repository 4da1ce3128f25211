"""A synthetic data set: nothing to download, and all that semi-supervised learning deals with.

Each scene is textured ground with objects on it. Texture and shape determine the class, color hints at it; classes are
long-tailed; borders are blended so that their pixels are ambiguous. A scene is a function of (seed, split, index).
"""

import colorsys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Item, Palette, Sample, Window
from farcluss.errors import DataError
from farcluss.plugins.options import Count, PositiveInt, Share
from farcluss.recipes.model import Data

Plane = NDArray[np.float64]

NAMES = ("ground", "disk", "bar", "tile", "ring", "star")
PALETTE: Palette = ((96, 96, 96), (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
HUES = (0.33, 0.08, 0.55, 0.42, 0.02, 0.85)
ODDS = np.array([0.40, 0.26, 0.17, 0.11, 0.06])
SPLITS = {"train": 0, "val": 1, "test": 2}


class Grid(NamedTuple):
    """Pixel coordinates of a scene, and the same turned and centered on an object."""

    y: Plane
    x: Plane

    def at(self, center: Plane, angle: float) -> "Grid":
        """This grid with its origin at `center`, turned by `angle`."""
        y, x = self.y - center[0], self.x - center[1]
        return Grid(y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle))


def outline(kind: int, grid: Grid, radius: float) -> Plane:
    """Signed distance-like field of class `kind` in pixels, positive inside."""
    distance = np.hypot(grid.y, grid.x)
    box = np.maximum(np.abs(grid.y), np.abs(grid.x))
    if kind == 1:
        return radius - distance
    if kind == 2:
        return radius * 0.45 - np.maximum(np.abs(grid.y), np.abs(grid.x) - radius * 0.8)
    if kind == 3:
        return radius * 0.85 - box
    if kind == 4:
        return radius * 0.28 - np.abs(distance - radius * 0.75)
    return np.asarray(radius * (0.72 + 0.28 * np.cos(5 * np.arctan2(grid.y, grid.x))) - distance)


def texture(kind: int, grid: Grid, phase: float) -> Plane:
    """Texture of class `kind` in [-1, 1]."""
    across, along = np.sin(grid.x * 1.3 + phase), np.sin(grid.y * 1.3 + phase)
    return (
        np.zeros_like(grid.y),  # ground: only what the noise of the scene gives
        np.sin(np.hypot(grid.y, grid.x) * 1.4 + phase),
        across,
        np.sign(across * along),
        np.full_like(grid.y, -0.6),
        np.sin(grid.y * 2.2 + phase) * np.sin(grid.x * 2.2 - phase),
    )[kind]


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Bilinear noise in [-1, 1] with `cells` cells per side."""
    knots = rng.uniform(-1, 1, (cells + 1, cells + 1))
    place = np.linspace(0, cells, size, endpoint=False)
    low = place.astype(int)
    share = place - low
    rows = knots[low] * (1 - share[:, None]) + knots[low + 1] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, low + 1] * share)


def draw(seed: int, split: int, index: int, size: int, color: float) -> Sample:
    """One scene.

    Args:
        seed: of the set.
        split: 0 train, 1 val, 2 test.
        index: of the scene.
        size: pixels per side.
        color: how much the hue tells about the class, from 0 (nothing) to 1 (everything).

    Returns:
        Image `(3, size, size)` uint8 and mask `(size, size)` uint8.
    """
    rng = np.random.default_rng([seed, split, index])
    grid = Grid(*(axis.astype(float) for axis in np.mgrid[:size, :size]))
    mask = np.zeros((size, size), np.uint8)
    image = _paint(rng, 0, smooth_noise(rng, size, 6) * 0.8, color)
    for _ in range(rng.integers(3, 7)):
        kind = 1 + int(rng.choice(len(ODDS), p=ODDS))
        local = grid.at(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi))
        radius = rng.uniform(0.11, 0.22) * size
        field = outline(kind, local, radius)
        cover = np.clip(field / rng.uniform(1.0, 4.0) + 0.5, 0, 1)[None]
        painted = _paint(rng, kind, texture(kind, local, rng.uniform(0, 2 * np.pi)), color)
        image = image * (1 - cover) + painted * cover
        mask[field > 0] = kind
    light = 1 + 0.25 * smooth_noise(rng, size, 2)
    image = image * light + rng.normal(0, 0.04, image.shape)
    return Sample((image.clip(0, 1) * 255).round().astype(np.uint8), mask)


def _paint(rng: np.random.Generator, kind: int, pattern: Plane, color: float) -> Plane:
    """A texture in a color that hints at the class: `(3, size, size)`."""
    hue = HUES[kind] + rng.uniform(-0.5, 0.5) * (1 - color)
    base = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.7)))
    return base[:, None, None] + 0.16 * pattern


class Shapes:
    """Procedurally drawn scenes of six long-tailed classes, deterministic, with nothing to download.

    Every scene has a mask; which ones count as labeled is the recipe's `data.labeled`.

    Args:
        train: number of training scenes.
        val: number of validation scenes.
        test: number of test scenes.
        size: pixels per side.
        seed: of the whole set; another seed is another set of the same kind.
        color: how much the hue tells about the class, from 0 (nothing) to 1 (everything).
    """

    classes = NAMES
    palette = PALETTE

    def __init__(
        self,
        data: Data,
        *,
        train: PositiveInt = 300,
        val: PositiveInt = 60,
        test: PositiveInt = 60,
        size: PositiveInt = 64,
        seed: Count = 0,
        color: Share = 0.7,
    ) -> None:
        self.counts = {"train": train, "val": val, "test": test}
        self.extent, self.seed, self.color = size, seed, color

    def items(self, split: str) -> list[Item]:
        """Items of a split, named like `train/0007`."""
        if split not in self.counts:
            raise DataError(f"The shapes set has no split {split!r}; it has {', '.join(self.counts)}.")
        return [self.parse(f"{split}/{index:04d}") for index in range(self.counts[split])]

    def parse(self, line: str) -> Item:
        """The item of a line such as `train/0007`. Raises DataError for anything else."""
        split, _, index = line.strip().partition("/")
        if split not in self.counts or not index.isdecimal():
            raise DataError(f"{line.strip()!r} is not a scene of the shapes set; write it like train/0007.")
        if int(index) >= self.counts[split]:
            raise DataError(f"{line.strip()!r} is not a scene of the shapes set: {split} has {self.counts[split]}.")
        name = f"{split}/{int(index):04d}"
        return Item(name, name, name)

    def size(self, item: Item) -> tuple[int, ...]:
        """`(size, size)`."""
        return self.extent, self.extent

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Draw the scene, or a window of it."""
        split, _, index = item.image.partition("/")
        sample = draw(self.seed, SPLITS[split], int(index), self.extent, self.color)
        if window is None:
            return sample
        return Sample(sample.image[:, *window], None if sample.mask is None else sample.mask[window])
