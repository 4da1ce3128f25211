"""Small trees of the layouts that the shipped recipes are for, with as many cases as the published sets have."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from phantoms import Geometry, Phantom, write_channels, write_decathlon, write_hdf5, write_label

EXTENT = (24.0, 28.0, 16.0)
MIXED: tuple[Geometry, ...] = ("ras", "lps", "oblique", "anisotropic")
LEFT_ATRIUM = "2018LA_Seg_Training Set"
BRATS_UNLABELED = ("BraTS_011", "BraTS_012")


def make_decathlon(root: Path) -> Path:
    """Ten labeled cases, the second without a tumor, three unlabeled ones and one for tests, in four geometries."""
    write_decathlon(root, 10, 3, 0, 1, geometries=MIXED, extent=EXTENT, tumorless=(1,))
    return root


def make_brats(root: Path) -> Path:
    """Eleven cases with a label and two without, in folders `HGG` and `LGG`."""
    for number in range(13):
        case = f"BraTS_{number:03d}"
        folder = root / ("HGG", "LGG")[number % 2] / case
        scan = Phantom(number, 4, enhancing=number % 2 == 0, extent=EXTENT).scan(MIXED[number % 4])
        write_channels([folder / f"{case}_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2")], scan)
        if case not in BRATS_UNLABELED:
            write_label(folder / f"{case}_seg.nii.gz", scan)
    return root


def make_acdc(root: Path) -> Path:
    """140, 20 and 40 volumes of ten slices, which are the first axis: two frames of each patient."""
    cases = [f"patient{number:03d}_frame{frame:02d}" for number in range(1, 101) for frame in (1, 12)]
    _draw(root, [f"data/{case}.h5" for case in cases], "decathlon", "permuted", (24.0, 20.0, 10.0))
    return _list(root, ".list", train=cases[:140], val=cases[140:160], test=cases[160:])


def make_brats19(root: Path) -> Path:
    """250, 25 and 60 volumes, their labels 0, 1, 2 and 4."""
    cases = [f"BraTS19_{number}" for number in range(335)]
    _draw(root, [f"data/{case}.h5" for case in cases], "2018-2022", "ras", EXTENT)
    return _list(root, ".txt", train=cases[:250], val=cases[250:275], test=cases[275:])


def make_left_atrium(root: Path) -> Path:
    """80 and 20 volumes."""
    cases = [f"LA{number:02d}" for number in range(100)]
    _draw(root, [f"{LEFT_ATRIUM}/{case}/mri_norm2.h5" for case in cases], "binary", "ras", EXTENT)
    return _list(root, ".list", train=cases[:80], test=cases[80:])


def _draw(root: Path, files: Sequence[str], edition: str, geometry: Geometry, extent: tuple[float, ...]) -> None:
    """Four phantoms over and over; the third has no tumor."""
    sources = []
    for number in range(4):
        sources.append(root / f"phantom-{number}.h5")
        scan = Phantom(number, tumor=number != 2, extent=extent).scan(geometry)
        write_hdf5(sources[-1], scan, edition, unit=True)
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[number % 4], root / file)


def _list(root: Path, ending: str, **splits: Sequence[str]) -> Path:
    for split, cases in splits.items():
        (root / f"{split}{ending}").write_text("".join(f"{case}\n" for case in cases))
    return root
