"""What `farcluss init` says of a folder of volumes."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from farcluss.data.base import Data, Item
from farcluss.data.proposals import Proposal
from farcluss.data.searching import search
from farcluss.errors import DataError
from farcluss.plugins import registry
from farcluss_medical.volumes import read_header, read_label

ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd")
FOLDERS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"), ("image", "label"))
LOOKED_AT = 30
"""Cases whose size and labels are read."""
SIDE = 96
"""Voxels per side of a patch, at most; a multiple of 16, as networks want it."""


def propose(source: Path) -> Proposal | None:
    """Volumes by a datalist, by nnU-Net's folders, or in a folder of images and one of labels; None for others."""
    if not search(source, ENDINGS).files or (layout := _layout(source)) is None:
        return None
    data: dict[str, Any] = {"layout": layout}
    notes = []
    if layout["name"] == "scans":
        data["classes"] = _classes(source, layout)
        notes.append(f"labels hold {len(data['classes'])} values; rename the classes")
    try:
        dataset, items = _build(source, data)
    except DataError as error:
        data["on_error"] = "skip"
        dataset, items = _build(source, data)
        notes.append(f"some files are left out (data.on_error): {str(error).splitlines()[0]}")
    labeled = [item for item in items if item.mask]
    sizes = [dataset.size(item) for item in items[:: max(1, len(items) // LOOKED_AT)]]
    size = [int(median(each)) for each in zip(*sizes, strict=True)]
    data["crop"] = [max(16, min(SIDE, extent // 16 * 16)) for extent in size]
    data["val"] = "1/5" if len(labeled) > 1 else "none"
    notes += [
        f"classes: {', '.join(dataset.classes)}",
        "intensities are taken as those of MR (data.layout.normalize = zscore); for CT see docs/medical.md",
    ]
    what, unlabeled = f"volumes, layout {layout['name']}", len(items) - len(labeled)
    return Proposal(what, data, len(labeled), unlabeled, size, notes=notes, base="base/volumes.toml")


def _build(source: Path, data: dict[str, Any]) -> tuple[Any, list[Item]]:
    section = Data.model_validate({"root": source, **data})
    dataset: Any = registry.build("dataset", section.layout.name, section.layout.options, section)
    return dataset, dataset.items("train")


def _layout(source: Path) -> dict[str, Any] | None:
    own = {"normalize": "zscore", "foreground": 0.33}
    listing = source / "dataset.json"
    if listing.is_file():
        try:
            table = json.loads(listing.read_text(encoding="utf-8"))
        except ValueError:
            return None
        if isinstance(table, dict) and "training" in table:
            return {"name": "decathlon", **own}
        if (source / "imagesTr").is_dir():
            return {"name": "nnunet", **own}
    for images, labels in FOLDERS:
        if (source / images).is_dir() and (source / labels).is_dir():
            return {"name": "scans", "images": images, "labels": labels, "unlabeled": images, **own}
    return None


def _classes(source: Path, layout: dict[str, Any]) -> dict[str, int]:
    """Names for the values of some labels."""
    found: set[int] = set()
    for path in search(source / layout["labels"], ENDINGS).files[:LOOKED_AT]:
        header = read_header(str(path))
        found |= set(np.unique(read_label(str(path), str(path), header)).astype(int).tolist())
    return {"background" if value == 0 else f"class {value}": value for value in sorted(found | {0})}
