"""Scenes: which files belong together, in which split, and problems found without reading pixels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from farcluss.data.accounting import Passed
from farcluss.data.filesets import pairs
from farcluss.data.masks import Sources
from farcluss.errors import DataError
from farcluss_remote_sensing.addresses import is_address
from farcluss_remote_sensing.files import SUFFIXES

VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
"""Labels that are polygons."""


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        id: identifier, unique in the data set.
        images: files whose bands are stacked in this order.
        label: file with the classes, of pixels or of polygons (`FILE` or `FILE:LAYER`); None for an unlabeled scene.
        group: unit that must not be split between training and held-out scenes, such as a place; empty for the scene
            alone.
    """

    id: str
    images: tuple[str, ...]
    label: str | None = None
    group: str = ""

    @property
    def place(self) -> str:
        """The group, or the scene where it has none."""
        return self.group or self.id


@dataclass(frozen=True)
class Index:
    """What a layout has found.

    Attributes:
        splits: scenes by split: train (labeled and unlabeled), val, test.
        problems: what is missing or contradictory; these scenes are in no split.
        classes: names and label values or colors that the data set itself gives; empty where it gives none.
        ignored: label values or colors that the data set itself ignores.
        palette: one color per class, as #rrggbb; empty for the core's choice.
        options: resolved options of the layout that predictions depend on; stored in weights files.
        passed: entries of its folders that are not used.
    """

    splits: Mapping[str, Sequence[Scene]]
    problems: Sequence[str] = ()
    classes: Sources = field(default_factory=dict)
    ignored: Sequence[int | str] = ()
    palette: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    passed: Sequence[Passed] = ()


def vector_label(label: str) -> tuple[str, str] | None:
    """File and layer of a label that is polygons; None for one that is pixels."""
    lower = label.lower()
    if lower.endswith(VECTORS):
        return label, ""
    path, _, layer = label.rpartition(":")
    return (path, layer) if path.lower().endswith(VECTORS) else None


def label_file(label: str) -> str:
    """The file of a label, without a layer."""
    return (vector_label(label) or (label, ""))[0]


def find_by_id(scenes: Iterable[Scene]) -> dict[str, Scene]:
    """Scenes by id. Raises DataError: two have the same id."""
    found: dict[str, Scene] = {}
    for scene in scenes:
        other = found.setdefault(scene.id, scene)
        if other.images != scene.images:
            raise DataError(f"Two scenes have the id {scene.id}: {other.images[0]} and {scene.images[0]}. Rename one.")
    return found


def by_path(scenes: Iterable[Scene]) -> dict[str, Scene]:
    """Scenes by the paths of their files, with and without extension."""
    return {key: scene for scene in scenes for path in scene.images for key in (os.path.splitext(path)[0], path)}


def find_by_path(text: str, root: str, paths: Mapping[str, Scene], ids: Mapping[str, Scene]) -> Scene | None:
    """The scene of a list's line `IMAGE` or `IMAGE LABEL`; None where it names none.

    Paths are absolute or relative to the root, an image with or without extension; a leading slash of a relative path,
    as in some lists, is ignored. A label takes precedence over the scene's own, and may not exist.

    Args:
        text: of the line.
        root: folder of the data set, absolute.
        paths: scenes by path, see `by_path`.
        ids: scenes by id.
    """
    for image, label in pairs(text):
        places = [image, *(os.path.normpath(os.path.join(root, name)) for name in (image, image.lstrip("/")))]
        start, end = os.path.splitext(image)
        known = ids.get(start if end.lower() in SUFFIXES else image)
        scene = next((paths[place] for place in places if place in paths), known)
        if scene:
            named = os.path.normpath(os.path.join(root, label.lstrip("/")))
            return replace(scene, label=label if is_address(label) else named) if label else scene
    return None
