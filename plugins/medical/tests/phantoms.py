"""Drawn scans: a brain with a tumor, the same function of place in whatever geometry a file has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Geometry = Literal["ras", "lps", "permuted", "oblique", "anisotropic"]
GEOMETRIES: tuple[Geometry, ...] = ("ras", "lps", "permuted", "oblique", "anisotropic")
EXACT: tuple[Geometry, ...] = ("ras", "lps", "permuted")
"""Geometries with the same voxels in another order."""
OUTSIDE, CORE, EDEMA, ENHANCING = range(4)
"""Tissues: 1 to 3 are the whole tumor, 1 and 3 its core."""
EDITIONS: Mapping[str, tuple[int, int, int, int]] = {
    "2018-2022": (0, 1, 2, 4),
    "2023": (0, 1, 2, 3),
    "decathlon": (0, 2, 1, 3),
    "binary": (0, 1, 1, 1),
}
"""Label value of every tissue."""
CONTRASTS = ((300, 450, 800, 600), (500, 300, 400, 350), (450, 250, 400, 900), (350, 700, 850, 650))
"""Intensity of brain, core, edema and enhancing tumor: FLAIR, T1, T1 with contrast agent, T2."""
TEXTURE = 40
UNIT = 1000
"""No intensity is larger."""


class Scan(NamedTuple):
    """A rendered phantom: `voxels` `(C, *S)` int16 in [0, 1000], `tissue` `(*S)` uint8, `affine` `(4, 4)`."""

    voxels: NDArray[np.int16]
    tissue: NDArray[np.uint8]
    affine: NDArray[np.float64]

    def label(self, edition: str) -> NDArray[np.uint8]:
        """Label values `(*S)` of an edition."""
        return np.array(EDITIONS[edition], np.uint8)[self.tissue]


@dataclass(frozen=True)
class Phantom:
    """An ellipsoid brain around the origin of the world, and in it whole tumor > tumor core > enhancing tumor.

    Attributes:
        seed: of the tumor's place and of the texture.
        channels: 1 to 4 contrasts.
        tumor: whether there is one.
        enhancing: whether a part of it enhances.
        extent: millimeters of the image: right, anterior, superior.
    """

    seed: int = 0
    channels: int = 1
    tumor: bool = True
    enhancing: bool = True
    extent: tuple[float, float, float] = (40.0, 48.0, 24.0)

    def at(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Intensities `(C, *S)` and tissues `(*S)` at places `(*S, 3)` in millimeters.

        Only elementwise sums and products: equal places have equal values, bit for bit, in arrays of any order.
        """
        rng = np.random.default_rng(self.seed)
        half = np.array(self.extent) / 2
        brain = _inside(points, np.zeros(3), 0.9 * half)
        center, radii = rng.uniform(-0.25, 0.25, 3) * half, rng.uniform(0.42, 0.52, 3) * half
        tissue = np.zeros(brain.shape, np.uint8)
        for kind, share in ((EDEMA, 1.0), (CORE, 0.75), (ENHANCING, 0.5)):
            shift = rng.uniform(-0.07, 0.07, 3) * radii  # at most 0.125 radii: each part stays in the one around it
            if self.tumor and (kind != ENHANCING or self.enhancing):
                tissue[_inside(points, center + (share < 1) * shift, share * radii) & brain] = kind
        channels = []
        for base, core, edema, enhancing in CONTRASTS[: self.channels]:
            wave = _wave(points, rng.uniform(-0.2, 0.2, 3), rng.uniform())
            values = np.array((base, core, edema, enhancing))[tissue] + np.rint(TEXTURE * wave)
            channels.append(np.where(brain, values, 0).astype(np.int16))
        return np.stack(channels), tissue

    def scan(self, geometry: Geometry = "ras", spacing: Sequence[float] | None = None) -> Scan:
        """The phantom on the grid of a geometry; `spacing` is along right, anterior, superior before any rotation."""
        shape, affine = grid(geometry, self.extent, spacing)
        i, j, k = np.indices(shape, np.float64)
        places = [a * i + b * j + c * k + d for a, b, c, d in affine[:3]]
        voxels, tissue = self.at(np.round(np.stack(places, -1), 6))
        return Scan(voxels, tissue, affine)


def _inside(points: NDArray[np.float64], center: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    x, y, z = (((points[..., axis] - center[axis]) / radii[axis]) ** 2 for axis in range(3))
    return np.asarray(x + y + z <= 1)


def _wave(points: NDArray[np.float64], slope: NDArray[np.float64], phase: float) -> NDArray[np.float64]:
    """A triangle wave in [-1, 1]."""
    x, y, z = (points[..., axis] * slope[axis] for axis in range(3))
    turns = x + y + z + phase
    return np.asarray(4 * np.abs(turns - np.floor(turns) - 0.5) - 1)


def grid(
    geometry: Geometry, extent: Sequence[float], spacing: Sequence[float] | None = None
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of voxels that cover `extent` millimeters around the origin.

    `permuted` has superior, left, anterior as its axes; `oblique` turns the grid about two axes and has three spacings
    unless they are given; `anisotropic` has slices of 5 mm.
    """
    default = {"oblique": (1.0, 1.25, 2.0), "anisotropic": (1.0, 1.0, 5.0)}.get(geometry, (1.0, 1.0, 1.0))
    steps = np.array(default if spacing is None else spacing, np.float64)
    counts = np.maximum(1, np.rint(np.array(extent) / steps)).astype(int)
    axes, signs = {"lps": ((0, 1, 2), (-1, -1, 1)), "permuted": ((2, 0, 1), (1, -1, 1))}.get(
        geometry, ((0, 1, 2), (1, 1, 1))
    )
    affine = np.eye(4)
    affine[:3, :3] = np.diag(steps)[:, axes] * signs
    if geometry == "oblique":
        affine[:3, :3] = _turn(0, 0.3) @ _turn(2, -0.2) @ affine[:3, :3]
    shape = tuple(int(counts[axis]) for axis in axes)
    affine[:3, 3] = -(affine[:3, :3] * ((np.array(shape) - 1) / 2)).sum(1)
    return shape, affine + 0.0


def _turn(axis: int, angle: float) -> NDArray[np.float64]:
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def write_nifti(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], codes: tuple[int, int] = (1, 1)) -> None:
    """Write `(*S)` or `(C, *S)` with `codes` of sform and qform; channels become the last axis of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.moveaxis(voxels, 0, -1) if voxels.ndim == 4 else voxels
    image: Any = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def write_image(
    path: Path, scan: Scan, dtype: Any = np.int16, codes: tuple[int, int] = (1, 1), unit: bool = False
) -> None:
    """Write all channels in one file, 4-D where there are several; `unit` writes float32 in [0, 1]."""
    voxels = _stored(scan.voxels, dtype, unit)
    write_nifti(path, voxels if len(voxels) > 1 else voxels[0], scan.affine, codes)


def write_channels(
    paths: Sequence[Path], scan: Scan, dtype: Any = np.int16, codes: tuple[int, int] = (1, 1), unit: bool = False
) -> None:
    """Write a file per channel."""
    for path, voxels in zip(paths, _stored(scan.voxels, dtype, unit), strict=True):
        write_nifti(path, voxels, scan.affine, codes)


def write_label(
    path: Path, scan: Scan, edition: str = "2018-2022", dtype: Any = np.uint8, codes: tuple[int, int] = (1, 1)
) -> None:
    """Write the label values of an edition."""
    write_nifti(path, scan.label(edition).astype(dtype), scan.affine, codes)


def write_hdf5(path: Path, scan: Scan, edition: str | None = "binary", unit: bool = False) -> None:
    """Write the first channel as `image`, and `label` unless the edition is None, in the order of the scan's axes."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = _stored(scan.voxels, np.float32, unit)[0]
        if edition is not None:
            file["label"] = scan.label(edition)


def _stored(voxels: NDArray[np.int16], dtype: Any, unit: bool) -> NDArray[Any]:
    return (voxels / np.float32(UNIT)).astype(np.float32) if unit else voxels.astype(dtype)


def write_decathlon(
    root: Path,
    training: int = 4,
    unlabeled: int = 0,
    validation: int = 0,
    testing: int = 0,
    *,
    channels: int = 1,
    edition: str = "decathlon",
    geometries: Sequence[Geometry] = ("ras",),
    extent: tuple[float, float, float] = (40.0, 48.0, 24.0),
    spacing: Sequence[float] | None = None,
    dtype: Any = np.int16,
    unit: bool = False,
    tumorless: Sequence[int] = (),
) -> dict[str, Scan]:
    """Write a Decathlon folder: `dataset.json`, and the cases it lists with their labels; unlabeled ones have none.

    Cases are numbered through `training`, `unlabeled`, `validation`, `testing`; number n is of seed n, of geometry
    `geometries[n % len(geometries)]`, and called `case_00n`. Those in `tumorless` have no tumor.

    Returns:
        The scans by case.
    """
    facts: dict[str, Any] = {
        "name": "phantoms",
        "modality": {str(index): name for index, name in enumerate(("FLAIR", "T1w", "t1gd", "T2w")[:channels])},
        "labels": _names(edition),
    }
    scans: dict[str, Scan] = {}
    counts = {"training": training, "unlabeled": unlabeled, "validation": validation, "testing": testing}
    for key, count in counts.items():
        if not count:
            continue
        facts[key] = []
        for number in range(len(scans), len(scans) + count):
            name = f"case_{number:03d}"
            phantom = Phantom(number, channels, number not in tumorless, extent=extent)
            scans[name] = phantom.scan(geometries[number % len(geometries)], spacing)
            entry = {"image": f"./images/{name}.nii.gz"}
            write_image(root / entry["image"], scans[name], dtype, unit=unit)
            if key != "unlabeled":
                entry["label"] = f"./labels/{name}.nii.gz"
                write_label(root / entry["label"], scans[name], edition)
            facts[key].append(entry)
    (root / "dataset.json").write_text(json.dumps(facts, indent=1))
    return scans


def _names(edition: str) -> dict[str, str]:
    """`labels` of a `dataset.json`."""
    if edition == "binary":
        return {"0": "background", "1": "tumor"}
    _, core, edema, enhancing = EDITIONS[edition]
    names = {0: "background", core: "necrosis", edema: "edema", enhancing: "enhancing"}
    return {str(value): names[value] for value in sorted(names)}
