"""Data sets of a few tiny scans, drawn by their tests: voxels in memory, and the same as files."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

SPACING = (1.0, 1.25, 1.5)
RECIPE = """
[data]
root = "{root}"
layout = {{ name = "decathlon", cache = "{root}/cache" }}
channels = {channels}
mean = 0.0
std = 1.0
crop = 8
{data}
[train]
steps = 1
"""


@dataclass
class Scan:
    """One case in the order right, anterior, superior: `voxels` `(C, *S)`, `label` `(*S)` or None, and its affine."""

    voxels: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, ...] = SPACING
    axes: str = "RAS"
    affine: np.ndarray | None = None


def save(path: Path, array: np.ndarray, scan: Scan) -> None:
    """Write an array `(*S)` or `(*S, C)`, its axes turned to those of the scan."""
    affine = np.diag([*scan.spacing, 1.0]) if scan.affine is None else scan.affine
    image = nib.Nifti1Image(array, affine)
    image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(scan.axes)))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)


@dataclass
class Scans:
    """A data set: cases by name, in the sections of a datalist."""

    root: Path
    training: dict[str, Scan] = field(default_factory=dict)
    unlabeled: dict[str, Scan] = field(default_factory=dict)
    validation: dict[str, Scan] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=lambda: {"0": "background", "1": "organ", "2": "tumor"})

    def image(self, name: str) -> Path:
        return self.root / "images" / f"{name}.nii"

    def label(self, name: str) -> Path:
        return self.root / "labels" / f"{name}.nii"

    def write(self, data: str = "") -> Path:
        """Write files and recipe, with further lines of `[data]`; gives the recipe's path."""
        self.root.mkdir(exist_ok=True)
        facts = {"labels": self.labels}
        for section in ("training", "unlabeled", "validation"):
            facts[section] = [self._entry(name, scan) for name, scan in getattr(self, section).items()]
        (self.root / "dataset.json").write_text(json.dumps(facts))
        channels = len(next(iter(self.training.values())).voxels)
        recipe = self.root / "recipe.toml"
        recipe.write_text(RECIPE.format(root=self.root.as_posix(), channels=channels, data=data))
        return recipe

    def _entry(self, name: str, scan: Scan) -> dict[str, str]:
        save(self.image(name), np.moveaxis(scan.voxels, 0, 3), scan)
        entry = {"image": f"images/{name}.nii"}
        if scan.label is not None:
            save(self.label(name), scan.label, scan)
            entry["label"] = f"labels/{name}.nii"
        return entry


def draw(seed: int, shape: tuple[int, ...], channels: int = 1, labeled: bool = True, **facts: object) -> Scan:
    """A scan of noise with a box of class 1 in it, and one of class 2 in that, all of which differ in intensity."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(1, extent - 1) for extent in shape)] = 1
    label[tuple(slice(extent // 2, extent - 1) for extent in shape)] = 2
    base = np.arange(1, channels + 1)[:, None, None, None] * 50
    voxels = (rng.normal(0, 9, (channels, *shape)) + base + 40 * label).astype(np.int16)
    return Scan(voxels, label if labeled else None, **facts)
