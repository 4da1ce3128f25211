"""Small trees of the layouts that the shipped recipes are for, divided as the published sets are."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from drawn_scenes import NORTH_UP, UTM, Affine, Drawing, draw_scene, draw_tree, write
from numpy.typing import NDArray

GROUND = Drawing(size=(66, 36), bands=3, dtype="uint8", crs=None, transform=None)
"""Two windows of 40 pixels per side at most."""
BANDS = GROUND.but(bands=4, dtype="uint16", crs=UTM, transform=NORTH_UP, nodata=0, collar=5)
ISPRS = ("#ffffff", "#0000ff", "#00ffff", "#00ff00", "#ffff00", "#ff0000")
DUBAI = ("#3C1098", "#8429F6", "#6EC1E4", "#FEDD3A", "#E2A929")
UNLABELED = ("#9B9B9B", "#000000")
POTSDAM_TRAIN = [f"{row}_{column}" for row in range(2, 6) for column in (10, 11, 12)]
POTSDAM_TRAIN += [f"{row}_{column}" for row in (6, 7) for column in range(7, 13)]
POTSDAM_VAL = [f"{row}_{column}" for row in range(2, 7) for column in (13, 14)] + ["4_15", "5_15", "6_15", "7_13"]
VAIHINGEN_TRAIN = (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)
VAIHINGEN_VAL = (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)


def make_geotiff(root: Path) -> Path:
    """Five labeled scenes and three unlabeled ones, four bands; 255 in labels where there are no data."""
    draw_tree(root, BANDS, 5, 3)
    for path in (root / "labels").iterdir():
        one = BANDS.but(seed=int(path.stem[1:]))
        beside = Affine.translation(2000.0 * one.seed, 0) @ BANDS.transform
        write(path, np.where(one.invalid(), 255, one.classes()).astype(np.uint8), one.but(transform=beside))
    return root


def make_loveda(root: Path) -> Path:
    """64 and 10 images, and three without a label; label 0 is no data, 1 to 7 are classes."""
    counts = {"Train/Urban": 24, "Train/Rural": 40, "Val/Urban": 6, "Val/Rural": 4, "Test/Urban": 3}
    images = [f"{area}/images_png/{area[0]}{area[-2]}{n}.png" for area, count in counts.items() for n in range(count)]
    _draw(root, images)
    labels = [(np.arange(8, dtype=np.uint8)[_classes(seed, 8)])[None] for seed in range(4)]
    _lay(root, [name.replace("images", "masks") for name in images if "Test" not in name], labels)
    return root


def make_potsdam(root: Path) -> Path:
    """24 and 14 areas, side by side."""
    areas = [f"potsdam_{area}" for area in (*POTSDAM_TRAIN, *POTSDAM_VAL)]
    return _survey(root, areas, "2_Ortho_RGB/top_{}_RGB.tif", "5_Labels_all/top_{}_label.tif")


def make_vaihingen(root: Path) -> Path:
    """16 and 17 areas, side by side."""
    areas = [f"area{area}" for area in (*VAIHINGEN_TRAIN, *VAIHINGEN_VAL)]
    return _survey(root, areas, "top/top_mosaic_09cm_{}.tif", "gts_for_participants/top_mosaic_09cm_{}.tif")


def make_dubai(root: Path) -> Path:
    """Eight tiles of nine images; a row of labels is of each color that counts nowhere."""
    tiles = [f"Semantic segmentation dataset/Tile {number}" for number in range(1, 9)]
    names = [f"{tile}/{{}}/image_part_{part:03d}" for tile in tiles for part in range(1, 10)]
    _draw(root, [f"{name}.jpg".format("images") for name in names])
    labels = [_colored(seed, DUBAI) for seed in range(4)]
    for label in labels:
        label[:, 0], label[:, 1] = (_rgb(color)[:, None] for color in UNLABELED)
    _lay(root, [f"{name}.png".format("masks") for name in names], labels)
    return root


def make_levir(root: Path) -> Path:
    """40, 6 and 6 pairs; labels are 0 or 255."""
    names = [f"{s}/{{}}/{s}_{n}.png" for s, count in (("train", 40), ("val", 6), ("test", 6)) for n in range(count)]
    _draw(root, [name.format("A") for name in names])
    _draw(root, [name.format("B") for name in names], first=4)
    labels = [np.uint8(255) * (_classes(seed, 4) > 2)[None] for seed in range(4)]
    _lay(root, [name.format("label") for name in names], labels)
    return root


def _survey(root: Path, areas: Iterable[str], image: str, label: str) -> Path:
    """Images with a place, none of which shares ground with another."""
    for number, area in enumerate(areas):
        place = Affine.translation(10.0 * number, 0.0) @ Affine.scale(0.05, -0.05)
        one = GROUND.but(seed=number % 4, crs=UTM, transform=place)
        draw_scene(root / image.format(area), one)
        write(root / label.format(area), _colored(one.seed, ISPRS), one)
    return root


def _classes(seed: int, count: int) -> NDArray[np.intp]:
    """Class indices `(H, W)`, other ones in the right half of a scene than in the left one."""
    found = GROUND.but(seed=seed).classes().astype(np.intp)
    found[:, found.shape[1] // 2 :] += 4
    return found % count


def _colored(seed: int, colors: Iterable[str]) -> NDArray[np.uint8]:
    """A label `(3, H, W)`."""
    table = np.array([_rgb(color) for color in colors], np.uint8)
    return np.moveaxis(table[_classes(seed, len(table))], 2, 0).copy()


def _rgb(color: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(color.removeprefix("#")), np.uint8)


def _draw(root: Path, files: Iterable[str], first: int = 0) -> None:
    """Images without a place: four drawings over and over."""
    _lay(root, files, [GROUND.but(seed=seed).values() for seed in range(first, first + 4)])


def _lay(root: Path, files: Iterable[str], arrays: list[NDArray[np.uint8]]) -> None:
    """Four arrays over and over, as files of which each is written once."""
    written: list[Path] = []
    for number, file in enumerate(files):
        path = root / file
        if number < len(arrays):
            written.append(write(path, arrays[number], GROUND))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(written[number % len(arrays)], path)
