"""What annotators draw, whatever the tool: areas with a label on an image, and how they become a mask."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from farcluss.data.base import IGNORE
from farcluss.errors import DataError

BACKGROUND = "background"
Point = tuple[float, float]
"""x to the right and y down, in pixels; whole numbers are centers of pixels."""
ARC = 90
"""Corners of an ellipse."""


class Area(Protocol):
    """A part of an image."""

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Where it is, `(H, W)` of an image of this size."""


class Polygon(NamedTuple):
    """Outlines of parts that belong together, and of holes in them.

    Filled as Pillow does, and as labelme: pixels on the outline belong to it.
    """

    parts: Sequence[Sequence[Point]]
    holes: Sequence[Sequence[Point]] = ()

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See `Area`."""
        canvas = Image.new("1", size[::-1])
        draw = ImageDraw.Draw(canvas)
        for rings, value in ((self.parts, 1), (self.holes, 0)):
            for ring in rings:
                if len(ring) > 1:
                    draw.polygon(list(ring), fill=value, outline=1)
                elif ring:
                    draw.point(ring[0], fill=1)
        return np.array(canvas, bool)


class Bitmap(NamedTuple):
    """Pixels `(h, w)` bool with their upper left corner at `(x, y)`; what lies outside the image is cut off."""

    mask: NDArray[np.bool_]
    x: int = 0
    y: int = 0

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See `Area`."""
        found = np.zeros(size, bool)
        top, left = max(self.y, 0), max(self.x, 0)
        inside = self.mask[top - self.y : max(size[0] - self.y, 0), left - self.x : max(size[1] - self.x, 0)]
        found[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return found


@dataclass(frozen=True)
class Shape:
    """An area and what it is of."""

    label: str
    area: Area


@dataclass(frozen=True)
class Drawing:
    """What was drawn on an image.

    Attributes:
        image: path of the image as the export names it, or the name that it goes by there.
        shapes: in the order in which they lie on each other, the uppermost last.
        size: `(H, W)` of the image that they were drawn on; None where the export does not say.
        source: the file that says so.
    """

    image: str
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None
    source: str

    def mask(self, values: Mapping[str, int], size: tuple[int, int]) -> NDArray[np.uint8]:
        """The mask `(H, W)` for values by label; what nothing covers has the value of the background.

        Raises:
            DataError: the image has another size than that which was drawn on.
        """
        if self.size and self.size != size:
            drawn, found = (f"{each[1]} x {each[0]}" for each in (self.size, size))
            raise DataError(f"{self.source} is of an image of {drawn} pixels, but {self.image} has {found}.\n"
                            "Export again, or put the image back that was annotated.")  # fmt: skip
        mask = np.full(size, values[BACKGROUND], np.uint8)
        for shape in self.shapes:
            mask[shape.area.pixels(size)] = values[shape.label]
        return mask


@dataclass(frozen=True)
class Export:
    """What an export holds.

    Attributes:
        labels: in its own order, the background not among them unless it can be drawn.
        drawings: by split: train, val, test.
        colors: `#rrggbb` of labels, as far as the export has them.
        ignored: labels of areas that are of no class, such as labelme's `__ignore__`.
        no_images: paths of pictures that are part of the export.
    """

    labels: tuple[str, ...]
    drawings: Mapping[str, Sequence[Drawing]]
    colors: Mapping[str, str]
    ignored: frozenset[str] = frozenset()
    no_images: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        drawings: Mapping[str, Sequence[Drawing]],
        labels: Iterable[str] = (),
        colors: Mapping[str, str] | None = None,
        ignored: Collection[str] = (),
        no_images: Iterable[str] = (),
    ) -> "Export":
        """Without splits that have no drawing, each label once: those that the export lists, then others in use."""
        there = {split: found for split, found in drawings.items() if found}
        used = {shape.label for found in there.values() for each in found for shape in each.shapes}
        kept = dict.fromkeys([*labels, *sorted(used - {*ignored})])
        return cls(tuple(kept), there, colors or {}, frozenset(ignored) & used, frozenset(no_images))

    def values(self, ignored: Iterable[str] = ()) -> dict[str, int]:
        """A mask value of each label: the background is 0, others count from 1; 255 for those to ignore."""
        left_out = self.ignored | {*ignored}
        names = [name for name in self.labels if name != BACKGROUND and name not in left_out]
        if len(names) >= IGNORE:
            raise DataError(f"The export has {len(names)} labels; masks of 8 bits hold {IGNORE - 1} beside background.")
        return {
            BACKGROUND: 0,
            **{name: 1 + index for index, name in enumerate(names)},
            **dict.fromkeys(left_out, IGNORE),
        }


def ellipse(center: Point, radii: Point, degrees: float = 0.0) -> Polygon:
    """An ellipse, turned clockwise by so many degrees, as a polygon of many corners."""
    turn = math.radians(degrees)
    angles = [2 * math.pi * index / ARC for index in range(ARC)]
    points = [(radii[0] * math.cos(angle), radii[1] * math.sin(angle)) for angle in angles]
    return Polygon([[
        (center[0] + x * math.cos(turn) - y * math.sin(turn), center[1] + x * math.sin(turn) + y * math.cos(turn))
        for x, y in points
    ]])  # fmt: skip


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> Polygon:
    """A rectangle by its upper left corner, turned clockwise around it by so many degrees."""
    turn = math.radians(degrees)
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    return Polygon([[
        (x + across * math.cos(turn) - down * math.sin(turn), y + across * math.sin(turn) + down * math.cos(turn))
        for across, down in corners
    ]])  # fmt: skip


def points(flat: Sequence[Any]) -> list[Point]:
    """Pairs of a flat list of numbers."""
    numbers = [float(each) for each in flat]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
