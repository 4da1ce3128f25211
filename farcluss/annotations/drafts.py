"""Predictions as drafts for annotation tools: regions of a mask, and files that the tools open."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray

from farcluss.annotations.label_studio import encode
from farcluss.annotations.labelme import to_labelme
from farcluss.annotations.shapes import BACKGROUND, Polygon
from farcluss.annotations.yolo import to_yolo
from farcluss.errors import PluginError

INSIDE = 1 - 1e-4
"""Level of a contour through the centers of a region's outermost pixels, which then belong to it in every tool."""


class Region(NamedTuple):
    """A connected part of a mask.

    Attributes:
        label: name of its class.
        number: index of its class.
        area: its outline through pixel centers, and holes.
        pixels: `(H, W)` bool.
        confidence: mean of its pixels' highest probabilities.
    """

    label: str
    number: int
    area: Polygon
    pixels: NDArray[np.bool_]
    confidence: float


class Draft(NamedTuple):
    """The regions of an image, by its path below the folder of the images."""

    image: str
    size: tuple[int, int]
    regions: Sequence[Region]


def regions(
    classes: NDArray[np.integer], confidence: NDArray[np.float32], names: Sequence[str], smallest: int
) -> list[Region]:
    """The connected parts of a mask `(H, W)` of class indices, each class but the background.

    Args:
        classes: index of each pixel.
        confidence: `(H, W)`, the largest probability.
        names: of the classes.
        smallest: pixels below which a part is left out.
    """
    found = []
    for index, name in enumerate(names):
        if name != BACKGROUND and (mask := classes == index).any():
            for area in outlines(mask):
                pixels = area.pixels(classes.shape)
                if pixels.sum() >= smallest:
                    found.append(Region(name, index, area, pixels, float(confidence[pixels].mean())))
    return found


def outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """The outlines of the parts of a mask, with their holes; parts that touch at corners alone are several.

    Raises:
        PluginError: contourpy is missing.
    """
    try:
        from contourpy import FillType, contour_generator
    except ImportError:
        raise PluginError("Drafts need contourpy: pip install 'farcluss[annotations]'") from None
    generator = contour_generator(z=np.pad(mask, 1).astype(float), fill_type=FillType.OuterOffset)
    found = []
    for corners, offsets in zip(*generator.filled(INSIDE, 2.0), strict=True):
        rings = [
            [(float(x), float(y)) for x, y in _plain(corners[start:stop].round().astype(int) - 1)]
            for start, stop in pairwise(offsets)
        ]
        found.append(Polygon(rings[:1], rings[1:]))
    return found


def _plain(ring: NDArray[np.integer]) -> NDArray[np.integer]:
    """A closed ring without repeated corners, and without those in the middle of a straight line."""
    changes = (ring[1:] != ring[:-1]).any(1)
    if not changes.any():
        return ring[:1]
    ring = ring[:-1][changes]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    straight = (np.sign(before) == np.sign(after)).all(1) & (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0])
    return np.asarray(ring[~straight])


def labelme(draft: Draft) -> str:
    """A labelme file of one image."""
    return to_labelme(draft.image, draft.size, [(each.label, each.area, each.confidence) for each in draft.regions])


def yolo(draft: Draft) -> str:
    """The lines of one image, by the indices of `data.yaml`."""
    return to_yolo(draft.size, [(each.number, each.area) for each in draft.regions])


def coco(drafts: Sequence[Draft], names: Sequence[str]) -> str:
    """A COCO file with run lengths, and the confidence as `score`. Raises PluginError where pycocotools is missing."""
    from farcluss.annotations.coco import coder

    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, draft in enumerate(drafts, 1):
        height, width = draft.size
        images.append({"id": number, "file_name": draft.image, "height": height, "width": width})
        for each in draft.regions:
            runs = coder().encode(np.asfortranarray(each.pixels.astype(np.uint8)))
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": each.number + 1, "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": runs["counts"].decode()},
                "area": int(each.pixels.sum()), "bbox": [float(edge) for edge in coder().toBbox(runs)],
                "score": round(each.confidence, 4),
            })  # fmt: skip
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(names) if name != BACKGROUND]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def label_studio(drafts: Sequence[Draft], names: Sequence[str]) -> str:
    """Tasks with predictions as brushes, and the confidence as `score`."""
    tasks = []
    for draft in drafts:
        height, width = draft.size
        result = [
            {"type": "brushlabels", "from_name": "label", "to_name": "image", "original_width": width,
             "original_height": height, "score": round(each.confidence, 4),
             "value": {"format": "rle", "rle": encode(each.pixels), "brushlabels": [each.label]}}
            for each in draft.regions
        ]  # fmt: skip
        score = float(np.mean([each.confidence for each in draft.regions])) if draft.regions else 0.0
        predictions = [{"model_version": "farcluss", "score": round(score, 4), "result": result}]
        tasks.append({"data": {"image": draft.image}, "predictions": predictions})
    return json.dumps(tasks)


def cvat(drafts: Sequence[Draft], names: Sequence[str]) -> str:
    """CVAT for images: an XML file with masks; it has no room for the confidence."""
    top = Element("annotations")
    SubElement(top, "version").text = "1.1"
    for number, draft in enumerate(drafts):
        height, width = map(str, draft.size)
        image = SubElement(top, "image", id=str(number), name=draft.image, width=width, height=height)
        for each in draft.regions:
            rows, columns = (np.flatnonzero(each.pixels.any(axis)) for axis in (1, 0))
            box = each.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            SubElement(
                image, "mask", label=each.label, source="auto", occluded="0", rle=", ".join(map(str, _runs(box))),
                left=str(columns[0]), top=str(rows[0]), width=str(box.shape[1]), height=str(box.shape[0]), z_order="0",
            )  # fmt: skip
    indent(top)
    return tostring(top, encoding="unicode")


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs by rows, outside first."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


EACH: Mapping[str, tuple[str, Callable[[Draft], str]]] = {"labelme": (".json", labelme), "yolo": (".txt", yolo)}
"""Formats with a file for each image: its ending, and its text."""
JOINT: Mapping[str, tuple[str, Callable[[Sequence[Draft], Sequence[str]], str]]] = {
    "coco-json": ("annotations.json", coco),
    "label-studio": ("tasks.json", label_studio),
    "cvat-xml": ("annotations.xml", cvat),
}
"""Formats with one file: its name, and its text for all drafts and names of classes."""
