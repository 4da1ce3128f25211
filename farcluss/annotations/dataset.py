"""Data sets of annotations: images where they lie, masks drawn when they are read."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farcluss.annotations.reading import base_name
from farcluss.annotations.shapes import BACKGROUND, Drawing, Export
from farcluss.data.base import Item, Palette, Reduced, Sample, Window
from farcluss.data.files import SUFFIXES, image_size, read_draft, read_image
from farcluss.data.filesets import FileDataset, check_group
from farcluss.data.layouts import root_of
from farcluss.data.masks import MaskMap, build_mask_map, choose_palette, rgb
from farcluss.data.searching import search_any
from farcluss.errors import DataError, RecipeError, counted, some, suggestion
from farcluss.recipes.model import Data, Defaults


@dataclass(frozen=True)
class DrawingReader:
    """Reads images from files, and draws their masks.

    Attributes:
        channels: image channels wanted.
        masks: which mask value is which class.
        drawings: by the path of the image.
        values: mask value by label.
    """

    channels: int
    masks: MaskMap
    drawings: Mapping[str, Drawing]
    values: Mapping[str, int]

    def size(self, item: Item) -> tuple[int, ...]:
        """`(H, W)` as displayed, from the file's header."""
        return image_size(item.image)

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Image and mask of an item, or of a window of it. Raises DataError."""
        return Sample(read_image(item.image, self.channels, window), self._mask(item, window))

    def read_reduced(self, item: Item, window: Window, factor: int) -> Reduced | None:
        """A window with its image decoded smaller, see `farcluss.data.files.FileReader.read_reduced`."""
        found = read_draft(item.image, self.channels, window, factor)
        return found and Reduced(*found, self._mask(item, window))

    def _mask(self, item: Item, window: Window | None) -> NDArray[np.uint8] | None:
        if item.mask is None:
            return None
        drawing = self.drawings[item.image]
        try:
            drawn = drawing.mask(self.values, image_size(item.image))
        except ValueError as error:
            raise DataError(f"{drawing.source}, image {item.id}: {error}.") from None
        return self.masks.apply(drawn if window is None else drawn[window], item.image)


def annotated(
    data: Data,
    export: Export,
    *,
    images: str = ".",
    empty: Literal["background", "unlabeled"] | None = None,
    ignore: list[str] = [],  # noqa: B006
    group: str = "",
) -> FileDataset:
    """The data set of an export. Images without a drawing that lie beside drawn ones are unlabeled.

    Args:
        data: section of the recipe.
        export: what was drawn.
        images: folder of the images, relative to `data.root`.
        empty: what an image without any area is: all background, or unlabeled.
        ignore: labels of areas that count in no loss and no score.
        group: pattern whose part in brackets tells the group of an image, see the layout `folder`.

    Raises:
        DataError: an image is missing, or it is not said what an image without any area is.
        RecipeError: labels and `data.classes` do not fit.
    """
    check_group(group)
    root, values = root_of(data), export.values(ignore)
    data = _by_name(data, values)
    left_out = export.ignored | {*ignore}
    mask_map = build_mask_map(data, {name: [value] for name, value in values.items() if name not in left_out})
    _refuse_unknown(mask_map, values, export)
    found = {split: _located(drawings, root, images) for split, drawings in export.drawings.items()}
    drawings = {path: drawing for each in found.values() for path, drawing in each.items()}
    _refuse_unclear(drawings, empty)
    splits = {"train": [*found.get("train", {}), *_undrawn(root, images, found, export.no_images)]}
    splits |= {split: [*paths] for split, paths in found.items() if split != "train"}
    return FileDataset(
        mask_map.names,
        choose_palette(data, _palette(export, mask_map), len(mask_map.names), mask_map),
        root,
        DrawingReader(data.channel_count, mask_map, drawings, values),
        {split: partial(_items, paths) for split, paths in splits.items()},
        partial(_image_of, root / images),
        partial(_source, drawings, empty),
        defaults=Defaults(mask_values=mask_map.values),
        group=group,
    )


def _undrawn(
    root: Path, images: str, found: Mapping[str, Mapping[str, Drawing]], no_images: Collection[str]
) -> list[str]:
    """Images in the folders of drawn training images, or anywhere where an option names the folder."""
    drawn = {path for paths in found.values() for path in paths} | {os.path.abspath(path) for path in no_images}
    folders = {Path(path).parent for path in found.get("train", {})}
    beside = map(os.path.abspath, search_any(root, images, SUFFIXES).files)
    return [path for path in beside if path not in drawn and (images != "." or Path(path).parent in folders)]


def _by_name(data: Data, values: Mapping[str, int]) -> Data:
    """The section with the value of each class that it names. Raises RecipeError for one that is no label."""
    if data.classes is None:
        return data
    if not isinstance(data.classes, list):
        raise RecipeError("data.classes of an export are its labels, by name alone: a list of them, in any order.")
    for name in data.classes:
        if name not in values:
            near = suggestion(name, values)
            raise RecipeError(f"data.classes names {name!r}, which is no label of the export{near}\n"
                              f"Its labels: {some(list(values), 10)}.")  # fmt: skip
    return data.model_copy(update={"classes": {name: values[name] for name in data.classes}})


def _refuse_unknown(masks: MaskMap, values: Mapping[str, int], export: Export) -> None:
    """Raise RecipeError where what is drawn, or what is not, has no class."""
    known = {*masks.codes.tolist()}
    if not masks.colors and values[BACKGROUND] not in known:
        raise RecipeError("data.classes lacks background, which is all that nothing covers.\n"
                          "Name it first, or leave such pixels out: data.ignore_index = [0, 255].")  # fmt: skip
    used = {shape.label for drawings in export.drawings.values() for each in drawings for shape in each.shapes}
    if lost := [name for name in values if name in used and values[name] not in known]:
        raise RecipeError(f"data.classes lacks {some(lost)}, which the export has.\n"
                          f"Add it, or leave its areas out: data.layout.ignore = {json.dumps(lost)}")  # fmt: skip


def _refuse_unclear(drawings: Mapping[str, Drawing], empty: str | None) -> None:
    bare = [path for path, drawing in drawings.items() if not drawing.shapes]
    if bare and empty is None:
        raise DataError(f"{len(bare):,} of {counted(len(drawings), 'image')} have no area in the export, the first is "
                        f"{bare[0]}.\n"
                        'If nothing is on them: data.layout.empty = "background"; if nobody has looked at them: '
                        '"unlabeled".')  # fmt: skip


def _located(drawings: Sequence[Drawing], root: Path, images: str) -> dict[str, Drawing]:
    """The drawings by the path of their image. Raises DataError where one is missing, or two may be meant."""
    by_name: dict[str, list[Path]] = {}
    for image in search_any(root, images, SUFFIXES).files:
        by_name.setdefault(image.name, []).append(image)
    found: dict[str, Drawing] = {}
    missing: list[str] = []
    for drawing in drawings:
        name, beside = Path(drawing.image), Path(drawing.source).parent
        near = next((place for folder in (beside, root, root / images) if (place := folder / name).is_file()), None)
        path = near or _only(by_name.get(base_name(drawing.image), []), drawing)
        if path is None:
            missing.append(drawing.image)
        elif (key := os.path.abspath(path)) in found:
            raise DataError(f"{drawing.source} has {drawing.image} twice. Merge the two, or take one out.")
        else:
            found[key] = drawing
    if missing:
        number = f"{len(missing):,} of {counted(len(drawings), 'image')}"
        raise DataError(f"{number} of {drawings[0].source} are not below {root}, the first is {missing[0]}.\n"
                        "Put them there, or set data.layout.images.")  # fmt: skip
    return found


def _only(paths: Sequence[Path], drawing: Drawing) -> Path | None:
    """The one path of an image that the export names without its folder. Raises DataError for several."""
    folders = Path(drawing.image).parts[:-1]
    fitting = [path for path in paths if path.parts[-len(folders) - 1 : -1] == folders] or list(paths)
    if len(fitting) > 1:
        raise DataError(f"{drawing.source} names {drawing.image}, which may be {fitting[0]} or {fitting[1]}.\n"
                        "Set data.layout.images to the folder of the images.")  # fmt: skip
    return fitting[0] if fitting else None


def _items(paths: Sequence[str], dataset: FileDataset) -> list[Item]:
    return [dataset.item(Path(path)) for path in paths]


def _image_of(folder: Path, identifier: str) -> Path | None:
    """The image of an identifier: its path without ending, below the folder of the images."""
    ends = (end for suffix in sorted(SUFFIXES) for end in (suffix, suffix.upper()))
    return next((path for end in ends if (path := folder / f"{identifier}{end}").is_file()), None)


def _source(drawings: Mapping[str, Drawing], empty: str | None, image: Path) -> Path | None:
    """The file that holds the areas of an image; None for an unlabeled one."""
    drawing = drawings.get(str(image))
    if drawing is None or (not drawing.shapes and empty != "background"):
        return None
    return Path(drawing.source)


def _palette(export: Export, masks: MaskMap) -> Palette | None:
    """Black for the background and the export's own colors, where it has all of them."""
    colors = {BACKGROUND: "#000000", **export.colors}
    if not all(re.fullmatch("#[0-9a-f]{6}", colors.get(name, "")) for name in masks.names):
        return None
    return tuple(rgb(int(colors[name][1:], 16)) for name in masks.names)
