"""What the values of a map mean: classes and colors, in the forms that GDAL and QGIS read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Palette

if TYPE_CHECKING:
    from farcluss.inference.card import Card

TAG = "CLASS_"
"""Of a file's tags: followed by a value, its class."""


@dataclass(frozen=True)
class Legend:
    """The classes of a map.

    Attributes:
        names: in order of index.
        colors: of each.
        values: of each in the map.
    """

    names: Sequence[str]
    colors: Palette
    values: Sequence[int]

    @property
    def dtype(self) -> str:
        """Of the map."""
        return "uint8" if max(self.values) <= IGNORE else "uint16"

    @property
    def nodata(self) -> int:
        """The value of pixels without a class: the largest that is no class."""
        return max(set(range(np.iinfo(self.dtype).max + 1)) - set(self.values))

    def table(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Value of each class index `(256,)`."""
        table = np.full(IGNORE + 1, self.nodata, self.dtype)
        table[: len(self.values)] = self.values
        return table

    def tags(self) -> dict[str, str]:
        """Of the file."""
        return {f"{TAG}{value}": name for value, name in zip(self.values, self.names, strict=True)}

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Of the file."""
        colors = {value: (*color, 255) for value, color in zip(self.values, self.colors, strict=True)}
        return {**colors, self.nodata: (0, 0, 0, 0)}


def legend_of(card: "Card") -> Legend:
    """The legend of maps by a network: values of the labels that it learned from, if a map can hold them; else indices.

    So map and label can be compared in any program. Labels may be colors, or hold negative values.
    """
    values = [value for value in card.mask_values or () if isinstance(value, int) and 0 <= value < 2**16]
    return Legend(card.classes, card.palette, values if len(values) == len(card.classes) else range(len(card.classes)))


def values_by_tags(tags: Mapping[str, str], names: Sequence[str]) -> list[int] | None:
    """The value of each class by the tags of a map; None where they do not name all."""
    found = {name: key.removeprefix(TAG) for key, name in tags.items() if key.startswith(TAG)}
    return [int(found[name]) for name in names] if all(found.get(name, "").isdecimal() for name in names) else None


def indices(values: NDArray[np.integer], known: Sequence[int], rest: int) -> NDArray[np.int64]:
    """Index of each value in `known`, of the shape of the values; `rest` where it is not in it."""
    order = np.argsort(known)
    ordered = np.asarray(known)[order]
    place = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return np.where(ordered[place] == values, order[place], rest)


def category_names(sidecar: Path, legend: Legend) -> bytes:
    """The content of GDAL's sidecar file with the names of values up to 255, keeping what GDAL wrote."""
    root = ElementTree.parse(sidecar).getroot() if sidecar.is_file() else ElementTree.Element("PAMDataset")
    names = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    known = dict(zip(legend.values, legend.names, strict=True))
    for value in range(min(max(known), IGNORE) + 1):
        ElementTree.SubElement(names, "Category").text = known.get(value)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text


def style(legend: Legend) -> bytes:
    """The content of a QGIS style file for the map: a row per class."""
    root = ElementTree.Element("qgis", version="3.0")
    how = {"type": "paletted", "band": "1", "alphaBand": "-1", "opacity": "1"}
    renderer = ElementTree.SubElement(ElementTree.SubElement(root, "pipe"), "rasterrenderer", how)
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, name, color in zip(legend.values, legend.names, legend.colors, strict=True):
        entry = {"value": str(value), "color": "#{:02x}{:02x}{:02x}".format(*color), "alpha": "255", "label": name}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text
