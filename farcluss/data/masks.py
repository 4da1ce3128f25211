"""From mask files to class indices: by value, or by color, and then never by palette index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Palette
from farcluss.errors import DataError, RecipeError, some
from farcluss.plugins.options import Color
from farcluss.recipes.model import Data

Code = int
"""A mask value, or a color as `r << 16 | g << 8 | b`."""


@dataclass(frozen=True)
class MaskMap:
    """The class of each source value or color.

    Attributes:
        codes: source codes, sorted.
        targets: class index or `IGNORE` per code.
        colors: whether the codes are colors.
        names: class names, for messages.
        first: per class, the first code that the recipe assigns to it.
    """

    codes: NDArray[np.int64]
    targets: NDArray[np.uint8]
    colors: bool
    names: tuple[str, ...]
    first: tuple[Code, ...]

    @property
    def values(self) -> list[int | Color]:
        """A mask value of each class, or its color: predictions with these are read back as the same classes."""
        return [f"#{code:06x}" if self.colors else code for code in self.first]

    @property
    def white(self) -> int:
        """Value of white in masks of one bit per pixel: 1, or 255 where that alone is a class, as viewers show it."""
        classes = self.codes[self.targets != IGNORE]
        return 255 if 255 in classes and 1 not in self.codes else 1

    def apply(self, array: NDArray[Any], path: str) -> NDArray[np.uint8]:
        """Class indices `(H, W)` of a mask `(H, W)`, or `(H, W, 3)` when colors are mapped.

        Raises:
            DataError: the mask contains values that no class has; names the file and the values.
        """
        array = whole_numbers(array, path)
        if array.dtype == np.uint8 and not self.colors:
            return self._look_up(array.astype(np.uint8, copy=False), path)
        codes = array.astype(np.int64)
        if self.colors:
            codes = (codes[..., 0] << 16) | (codes[..., 1] << 8) | codes[..., 2]
        place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        known = self.codes[place] == codes
        if not known.all():
            raise DataError(self._unknown(np.unique(codes[~known]), path))
        return np.asarray(self.targets[place])

    def _look_up(self, array: NDArray[np.uint8], path: str) -> NDArray[np.uint8]:
        """The same with a lookup table, ten times faster, for 8-bit masks."""
        inside = (self.codes >= 0) & (self.codes < 256)
        known, table = np.zeros(256, bool), np.zeros(256, np.uint8)
        known[self.codes[inside]], table[self.codes[inside]] = True, self.targets[inside]
        if not known.all() and not (found := known.take(array)).all():
            raise DataError(self._unknown(np.unique(array[~found]).astype(np.int64), path))
        return table.take(array)

    def _unknown(self, codes: NDArray[np.int64], path: str) -> str:
        shown = ", ".join(f"#{code:06x}" if self.colors else str(code) for code in codes[:5])
        more = f" and {len(codes) - 5} more" if len(codes) > 5 else ""
        kind, noun = ("colors", "color") if self.colors else ("values", "value")
        span = "" if self.colors else f" ({self._values()})"
        advice = "Set data.ignore_index if they mean nothing, or data.classes if they mean a class."
        if path.lower().endswith((".jpg", ".jpeg")):
            advice = "JPEG changes values where colors meet: save masks as PNG."
        return (
            f"{path} holds the {kind if len(codes) > 1 else noun} {shown}{more}, which none of the {len(self.names)} "
            f"classes has{span}.\n{advice}"
        )

    def _values(self) -> str:
        known: list[int] = self.codes[self.targets != IGNORE].tolist()
        whole = len(known) > 2 and known[-1] - known[0] == len(known) - 1
        return f"values {known[0]} to {known[-1]}" if whole else f"values {some([str(code) for code in known], 6)}"


def whole_numbers(array: NDArray[Any], path: str) -> NDArray[np.integer]:
    """A mask's values as integers that 64 bits hold.

    Raises:
        DataError: they are no numbers, not finite, fractions or too large; names the file and a value.
    """
    kind, wide = array.dtype.kind, 2.0**63
    if kind not in "biuf":
        raise DataError(f"{path} holds values of type {array.dtype}; a mask holds whole numbers. Convert it.")
    if kind in "bi" or (kind == "u" and array.dtype.itemsize < 8):
        return array
    odd = (array >= np.uint64(2**63)) if kind == "u" else ~((abs(array) < wide) & (array == np.floor(array)))
    if odd.any():
        value = array[odd][0]
        fraction = kind == "f" and abs(value) < wide
        shown = f"fractions, such as {value:g}" if fraction else f"the value {value}"
        raise DataError(f"{path} holds {shown}; a mask holds whole numbers of 64 bits at most. Convert it.")
    return array.astype(np.int64)


def _code(value: int | Color) -> Code:
    return value if isinstance(value, int) else int(value.removeprefix("#"), 16)


def rgb(code: Code) -> tuple[int, int, int]:
    """A color's code as RGB."""
    return code >> 16, code >> 8 & 255, code & 255


def as_list(value: int | Color | list[int | Color] | None) -> list[int | Color]:
    """One source value, several or none as a list."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


Sources = dict[str, list[int | Color]]
"""Mask values or colors per class name."""


def class_sources(data: Data, default: Sources) -> Sources:
    """Mask values or colors of each class: from the recipe's `data.classes`, else from the layout.

    Raises:
        RecipeError: no classes at all, too many, one twice, or one without a value.
    """
    chosen = data.classes if data.classes is not None else default
    if not chosen:
        raise RecipeError('data.classes is missing: name the classes, as ["sky", "road"] or name = value.')
    if len(set(chosen)) < len(chosen):
        raise RecipeError("data.classes names one class twice; give a class several values as name = [value, value].")
    if len(chosen) >= IGNORE:
        raise RecipeError(f"data.classes names {len(chosen)} classes; {IGNORE - 1} is the most.")
    first = int(data.reduce_zero_label)
    table = dict(zip(chosen, range(first, first + len(chosen)), strict=True)) if isinstance(chosen, list) else chosen
    sources = {name: as_list(value) for name, value in table.items()}
    if empty := [name for name, values in sources.items() if not values]:
        raise RecipeError(f"data.classes gives {empty[0]!r} no mask value.")
    return sources


def build_mask_map(data: Data, default: Sources) -> MaskMap:
    """The mask map of a recipe, from `classes`, `ignore_index` and `reduce_zero_label` of its `[data]`.

    Args:
        data: the section.
        default: the layout's own classes, for a recipe without `classes`.

    Raises:
        RecipeError: see `class_sources`; or values and colors are mixed, or one belongs to two classes, or to a class
            and to `ignore_index`.
    """
    sources = class_sources(data, default)
    kinds = {isinstance(value, str) for values in sources.values() for value in values}
    if len(kinds) != 1:
        raise RecipeError('data.classes mixes mask values and colors ("#rrggbb"); give every class the same kind.')
    colors = kinds == {True}
    ignored = as_list(data.ignore_index)
    if data.ignore_index is None and not colors and not any(IGNORE in values for values in sources.values()):
        ignored = [IGNORE]
    if any(isinstance(value, str) != colors for value in ignored):
        raise RecipeError(
            'data.ignore_index must be of the same kind as the classes: values, or colors "#rrggbb".\n'
            "Leave it out if there are no such pixels."
        )
    for value in [*ignored, *(value for values in sources.values() for value in values)]:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RecipeError(f"data.classes or data.ignore_index has the value {value}; masks have 64 bits at most.")
    codes = {_code(value): IGNORE for value in [*ignored, *([0] if data.reduce_zero_label else [])]}
    owners = dict.fromkeys(codes, "data.ignore_index")
    for index, (name, values) in enumerate(sources.items()):
        for value in values:
            if (owner := owners.setdefault(_code(value), name)) != name:
                raise RecipeError(f"data.classes gives {value!r} to {name!r}, but it belongs to {owner!r} already.")
            codes[_code(value)] = index
    ordered = sorted(codes)
    targets = np.array([codes[code] for code in ordered], np.uint8)
    firsts = tuple(_code(values[0]) for values in sources.values())
    return MaskMap(np.array(ordered, np.int64), targets, colors, tuple(sources), firsts)


def choose_palette(data: Data, default: Palette | None, count: int, masks: MaskMap) -> Palette:
    """Colors for pictures: the recipe's, those of the classes, the layout's, or generated ones.

    Raises:
        RecipeError: the palette does not have one color per class.
    """
    if own := recipe_palette(data, count):
        return own
    if masks.colors:
        return tuple(rgb(code) for code in masks.first)
    return default if default and len(default) == count else voc_colors(count)


def recipe_palette(data: Data, count: int) -> Palette | None:
    """The recipe's own colors for pictures. Raises RecipeError unless there is one per class."""
    if data.palette is None:
        return None
    if len(data.palette) != count:
        raise RecipeError(f"data.palette has {len(data.palette)} colors for {count} classes.")
    return tuple(rgb(_code(color)) for color in data.palette)


def voc_colors(count: int) -> Palette:
    """The PASCAL VOC color map: bit `i` of a class index goes to bit `7 - i // 3` of channel `i % 3`."""

    def color(index: int) -> tuple[int, int, int]:
        bits: Sequence[int] = [
            sum((index >> (3 * k + channel) & 1) << (7 - k) for k in range(8)) for channel in range(3)
        ]
        return bits[0], bits[1], bits[2]

    return tuple(color(index) for index in range(count))
