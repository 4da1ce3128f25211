"""Scenes: which files belong together, in which split, and what is wrong with them before a pixel is read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farcluss.data.masks import Sources
from farcluss.errors import DataError
from farcluss_remote_sensing.files import SUFFIXES

VECTORS = (".geojson", ".json", ".gpkg", ".shp")
"""Labels that are polygons."""


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        id: identifier, unique in the data set.
        images: files whose bands are stacked in this order.
        label: file with the classes, of pixels or of polygons (`FILE` or `FILE:LAYER`); None for an unlabeled scene.
        group: what must not be divided between training and held-out scenes, such as a place; empty for the scene
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
        ignored: label values or colors that count nowhere, where the data set itself has such.
        palette: one color per class, as #rrggbb; empty for the core's choice.
        options: of the layout that predictions depend on, as they were understood; weights files carry them.
    """

    splits: Mapping[str, Sequence[Scene]]
    problems: Sequence[str] = ()
    classes: Sources = field(default_factory=dict)
    ignored: Sequence[int | str] = ()
    palette: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def vector_label(label: str) -> tuple[str, str] | None:
    """File and layer of a label that is polygons; None for one that is pixels."""
    lower = label.lower()
    if lower.endswith(VECTORS):
        return label, ""
    path, _, layer = label.rpartition(":")
    return (path, layer) if path.lower().endswith(VECTORS) else None


def images_in(folder: Path) -> list[Path]:
    """Scenes of a folder and of its folders, sorted. Raises DataError when there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise DataError(f"There are no scenes in {folder}. Check data.root and the layout's folders.")
    return found


def refusal(problems: Sequence[str]) -> str:
    """What to say of problems when nothing may be left out: the first of them, and how to go on."""
    more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
    return (
        f"{' '.join(problems[0].split())}{more}\nMend {'them' if more else 'it'} (`farcluss check` lists all), or "
        "leave these scenes out with --set data.on_error=skip."
    )


def find_by_id(scenes: Iterable[Scene]) -> dict[str, Scene]:
    """Scenes by id. Raises DataError: two have one."""
    found: dict[str, Scene] = {}
    for scene in scenes:
        other = found.setdefault(scene.id, scene)
        if other.images != scene.images:
            raise DataError(f"Two scenes are called {scene.id}: {other.images[0]} and {scene.images[0]}. Rename one.")
    return found
