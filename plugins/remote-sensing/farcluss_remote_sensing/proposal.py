"""What `farcluss init` says of a folder of georeferenced scenes."""

from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio

from farcluss.data.base import Data
from farcluss.data.proposals import Proposal
from farcluss.data.searching import search
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.statistics import empty_bands, measure, scenes_of, to_text, training_parts

FOLDERS = (("images", "labels"), ("images", "masks"), ("image", "label"), ("sat", "gt"), ("scenes", "labels"))
LOOKED_AT = 30
"""Scenes whose size and labels are read."""
STATISTICS = "stats.json"
CROP = 321
"""Pixels per side of a window, at most."""


def propose(source: Path) -> Proposal | None:
    """GeoTIFF files with coordinates, in a folder of images and one of labels; None for others."""
    places = next((pair for pair in FOLDERS if all((source / name).is_dir() for name in pair)), None)
    files = search(source / places[0], [".tif", ".tiff"]).files if places else ()
    if not places or not files or not _has_coordinates(files[0]):
        return None
    with rasterio.open(files[0]) as first:
        colors = first.count == 3 and {*first.dtypes} == {"uint8"}
    layout: dict[str, Any] = {"name": "rasters", "images": places[0], "labels": places[1]}
    classes = _classes(source / places[1])
    measured = Data.model_validate({"root": source, "layout": layout, "classes": classes, "val": "none"})
    dataset = scenes_of(measured)
    items = dataset.items("train")
    labeled = [item for item in items if item.mask]
    sizes = [dataset.size(item) for item in items[:: max(1, len(items) // LOOKED_AT)]]
    size = [int(median(each)) for each in zip(*sizes, strict=True)]
    lists, notes = {}, [f"labels hold {len(classes)} values; rename the classes"]
    layout["scaling"] = "imagenet" if colors else "zscore"
    if not colors:
        layout["stats"] = STATISTICS
        lists[STATISTICS] = _statistics(dataset, measured)
        notes.append(f"bands that are no 8-bit colors are measured: {STATISTICS}, as `farcluss rs stats` writes it")
    crop = max(33, min(CROP, (min(size) - 1) // 16 * 16 + 1))
    data = {"layout": layout, "classes": classes, "crop": crop, "val": "1/5" if len(labeled) > 1 else "none"}
    unlabeled = len(items) - len(labeled)
    what = "scenes with coordinates"
    return Proposal(what, data, len(labeled), unlabeled, size, notes=notes, base="base/scenes.toml", lists=lists)


def _has_coordinates(path: Path) -> bool:
    with rasterio.open(path) as file:
        return file.crs is not None


def _classes(folder: Path) -> dict[str, int]:
    """Names for the values of some labels; 255 is ignored."""
    found: set[int] = set()
    for path in search(folder, [".tif", ".tiff", ".png"]).files[:LOOKED_AT]:
        with rasterio.open(path) as file:
            found |= set(np.unique(file.read(1)).astype(int).tolist())
    return {f"class {value}": value for value in sorted(found - {255})}


def _statistics(dataset: SceneDataset, data: Data) -> str:
    parts = training_parts(dataset, data)
    bands = empty_bands(dataset, parts)
    deque(measure(dataset, parts, bands), maxlen=0)  # its steps are for showing progress
    return to_text(len({scene.id for scene, _ in parts}), bands)
