"""What the files of images and masks are suspected of together, though each can be read alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from farcluss.data.base import IGNORE, Item
from farcluss.data.files import open_picture, orientation
from farcluss.data.masks import MaskMap, rgb
from farcluss.errors import DataError

ANIMATED = {"GIF", "PNG", "TIFF", "WEBP"}
"""Formats of several pages; in JPEG files, the others are previews."""


class Look(NamedTuple):
    """What the header of a picture says.

    Attributes:
        path: the file.
        mode: Pillow's color mode.
        palette: empty where there is none.
        pages: number of pictures in the file.
        turned: whether EXIF says that it is stored otherwise than it is shown.
        telling: whether a mask that is not turned with it has another size.
    """

    path: str
    mode: str
    palette: bytes
    pages: int
    turned: bool
    telling: bool


def look(path: str) -> Look | None:
    """The header of a picture; None for arrays, and for what cannot be read, which is said elsewhere."""
    if path.lower().endswith(".npy"):
        return None
    try:
        with open_picture(path) as image:
            palette = bytes(image.palette.palette) if image.mode == "P" and image.palette else b""
            pages = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
            turn = orientation(image)
            telling = turn in (5, 6, 7, 8) and image.width != image.height
            return Look(path, image.mode, palette, pages, turn in range(2, 9), telling)
    except (DataError, OSError, SyntaxError, ValueError, EOFError):
        return None


def oddities(items: Iterable[Item], masks: MaskMap) -> list[str]:
    """Warnings about files that have been read without an error, one for each cause."""
    pairs = [(look(item.image), look(item.mask) if item.mask else None, item.mask) for item in items]
    labels = [mask for _, mask, _ in pairs if mask]
    pictures = [*(image for image, _, _ in pairs if image), *labels]
    turned = [i for i, mask, path in pairs if path and i and i.turned and not i.telling and not (mask and mask.turned)]
    found = [
        _counted([one for one in pictures if one.pages > 1], "have several pages, of which the first is used"),
        _counted(
            turned,
            "are turned by their EXIF orientation, but their masks are not",
            "If masks were drawn on the stored pixels, their labels lie elsewhere: turn them too.",
        ),
        *([] if masks.colors else [_palettes(labels), _bits(labels, masks)]),
    ]
    return [text for text in found if text]


def _counted(files: Sequence[Look], what: str, advice: str = "") -> str:
    if not files:
        return ""
    return f"{len(files)} files {what}; the first is {files[0].path}." + (f"\n{advice}" if advice else "")


def _palettes(labels: Sequence[Look]) -> str:
    """Whether an index has two colors: then the palettes are in another order, and indices mean nothing."""
    files = [one for one in labels if one.palette]
    shortest = min((len(one.palette) for one in files), default=0)
    if len({one.palette[:shortest] for one in files}) < 2:
        return ""
    colors: dict[int, Counter[int]] = defaultdict(Counter)
    used = {one.path: list(_used(one.path)) for one in files}
    for index, color in (pair for pairs in used.values() for pair in pairs):
        colors[index][color] += 1
    usual = {index: counts.most_common(1)[0][0] for index, counts in colors.items()}
    odd = [path for path, pairs in used.items() if any(usual[index] != color for index, color in pairs)]
    if not odd:
        return ""
    index, color = next((index, color) for index, color in used[odd[0]] if usual[index] != color)
    shown = ["#{:02x}{:02x}{:02x}".format(*rgb(code)) for code in (usual[index], color)]
    return (
        f"The palettes of {len(odd)} of {len(files)} masks have other colors than the rest: index {index} is "
        f"{shown[0]}, but {shown[1]} in {odd[0]}.\n"
        "Classes by value ignore colors. If the colors are right, give them in data.classes."
    )


def _used(path: str) -> Iterator[tuple[int, int]]:
    """Index and color of what a palette picture uses; those that are the gray of their index say nothing."""
    with open_picture(path) as image:
        palette = np.array(image.getpalette("RGB"), np.int64).reshape(-1, 3)
        for index in np.unique(np.asarray(image)):
            if index < len(palette) and (palette[index] != index).any():
                yield int(index), int(palette[index] @ [1 << 16, 1 << 8, 1])


def _bits(labels: Sequence[Look], masks: MaskMap) -> str:
    """Whether white is 1 in some masks, and 255 in others, where it is ignored."""
    ignored = (masks.codes == IGNORE) & (masks.targets == IGNORE)
    one_bit = [one for one in labels if one.mode == "1"]
    if not one_bit or 1 not in masks.codes or not ignored.any():
        return ""
    white = [one for one in labels if one.mode == "L" and _is_black_and_white(one.path)]
    return _counted(
        white,
        f"hold 0 and 255, which is ignored, but in files of one bit per pixel, as {one_bit[0].path}, white is 1",
        "Give each class all its values, as in data.classes = { background = 0, object = [1, 255] }.",
    )


def _is_black_and_white(path: str) -> bool:
    with open_picture(path) as image:
        return set(np.unique(np.asarray(image)).tolist()) == {0, 255}
