"""For people who look at predictions: names and colors in the forms of viewers, and pictures of whole cases."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Palette

SIDE = 384
"""Pixels of the longest side of a pane."""
WINDOW = (1.0, 99.0)
"""Percentiles of the image that are drawn black and white."""
OPACITY = 0.5
GAP = 4
"""Pixels between panes."""


def itksnap_labels(names: Sequence[str], values: Sequence[int], palette: Palette) -> str:
    """A label description for ITK-SNAP; the first class is clear."""
    lines = ["# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL"]
    for place, (name, value, color) in enumerate(zip(names, values, palette, strict=True)):
        shown, text = min(place, 1), name.replace('"', "'")
        lines.append(f'{value:5} {color[0]:5} {color[1]:4} {color[2]:4} {shown:8} {shown:2} {shown:2}    "{text}"')
    return "\n".join(lines) + "\n"


def slicer_colors(names: Sequence[str], values: Sequence[int], palette: Palette) -> str:
    """A color table for 3D Slicer, whose names have no blanks; the first class is clear."""
    rows = zip(names, values, palette, strict=True)
    lines = [f"{v} {'_'.join(n.split())} {c[0]} {c[1]} {c[2]} {255 * min(k, 1)}" for k, (n, v, c) in enumerate(rows)]
    return "\n".join(["# Color table, columns: value name R G B A", *lines]) + "\n"


def draw_case(
    image: NDArray[np.float32], masks: Sequence[NDArray[np.uint8]], spacing: Sequence[float], palette: Palette
) -> bytes:
    """A PNG of axial, coronal and sagittal slices through the largest structure of the first mask.

    The first row is the image, then follow the masks over it. The patient's right and front are on the left.

    Args:
        image: `(*S)`, axes right, anterior, superior.
        masks: `(*S)` class indices: the prediction, and the truth if it is known; others than classes are not drawn.
        spacing: millimeters per voxel.
        palette: one color per class.
    """
    from PIL import Image

    places = largest_structure(masks[0])
    low, high = np.percentile(image, WINDOW)
    colors = np.array(palette, np.uint8)
    columns = []
    for axis in (2, 1, 0):
        gray = _pane(image, axis, places)
        gray = (255 * ((gray - low) / max(high - low, 1e-6)).clip(0, 1)).astype(np.uint8)
        plain = np.repeat(gray[..., None], 3, axis=2)
        panes = [plain, *(_overlaid(plain, _pane(mask, axis, places), colors) for mask in masks)]
        steps = [step for other, step in enumerate(spacing) if other != axis]
        size = np.array(gray.shape[::-1]) * steps
        width, height = np.maximum(1, np.round(SIDE * size / size.max())).astype(int)
        columns.append([np.asarray(Image.fromarray(pane).resize((width, height))) for pane in panes])
    file = io.BytesIO()
    Image.fromarray(_tiled(columns)).save(file, "PNG")
    return file.getvalue()


def largest_structure(mask: NDArray[np.uint8]) -> tuple[int, ...]:
    """Per axis, the slice with most of the largest connected part of the foreground; the middle if there is none."""
    from scipy.ndimage import label

    parts, found = label(mask > 0)
    if not found:
        return tuple(extent // 2 for extent in mask.shape)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    others = ((1, 2), (0, 2), (0, 1))
    return tuple(int(np.argmax(largest.sum(axis=axes))) for axes in others)


def _pane(array: NDArray[Any], axis: int, places: Sequence[int]) -> NDArray[Any]:
    """A slice as it is looked at: right and anterior on the left, anterior and superior on top."""
    return np.asarray(array.take(places[axis], axis=axis).T[::-1, ::-1])


def _overlaid(plain: NDArray[np.uint8], mask: NDArray[np.uint8], colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A pane `(H, W, 3)` with the colors of all classes but the first over it."""
    drawn = plain.copy()
    inside = (mask > 0) & (mask < len(colors))
    drawn[inside] = ((1 - OPACITY) * plain[inside] + OPACITY * colors[mask[inside]]).round()
    return drawn


def _tiled(columns: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Columns of panes of one size each, side by side on black."""
    row = max(panes[0].shape[0] for panes in columns) + GAP
    width = sum(panes[0].shape[1] + GAP for panes in columns) - GAP
    canvas, left = np.zeros((len(columns[0]) * row - GAP, width, 3), np.uint8), 0
    for panes in columns:
        for number, pane in enumerate(panes):
            top = number * row
            canvas[top : top + pane.shape[0], left : left + pane.shape[1]] = pane
        left += panes[0].shape[1] + GAP
    return canvas
