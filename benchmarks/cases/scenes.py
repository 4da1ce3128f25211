"""Scenes: small GeoTIFFs in the layouts `rasters` and `scenes`."""

import json
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from cases import kit
from cases.kit import LEARNING, NETWORK, READY, Case, left_out, refused, told, trial, write

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
UTM = "EPSG:32633"
NORTH = Affine(10.0, 0, 500_000, 0, -10.0, 5_000_000)
SIDE = 40
RECIPE = f"""
[data]
root = "."
layout = {{ name = "rasters", scaling = "imagenet" }}
classes = ["land", "water"]
val = "1/4"
labeled = "all"
crop = 32
workers = 0
{NETWORK.strip()}
{LEARNING.strip()}
writer = "geotiff"
"""
CHECK = "check r.toml"
TABLE = 'layout = { name = "scenes", file = "scenes.csv", scaling = "imagenet" }'


def place(number: int) -> Affine:
    """Grids beside each other."""
    return Affine.translation(2000.0 * number, 0) @ NORTH


def truth(number: int) -> np.ndarray:
    """A label `(SIDE, SIDE)` uint8: water on one side."""
    out = np.zeros((SIDE, SIDE), np.uint8)
    out[:, 10 + 2 * number :] = 1
    return out


def bands(number: int) -> np.ndarray:
    """A scene `(3, SIDE, SIDE)` uint8."""
    noise = np.random.default_rng(number).integers(20, 60, (3, SIDE, SIDE))
    return np.asarray(noise + 120 * truth(number), np.uint8)


def tif(path: Path, array: np.ndarray, transform: Affine = NORTH, crs: str | None = UTM, **profile: object) -> Path:
    """Write bands `(C, H, W)` or `(H, W)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array[None] if array.ndim == 2 else array
    facts = {
        "driver": "GTiff",
        "count": len(array),
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype,
        "crs": crs,
        "transform": transform,
    }
    with rasterio.open(path, "w", **facts | profile) as out:
        out.write(array)
    return path


def rasters(folder: Path, scenes: int = 5, labeled: int = 4, ending: str = ".tif", **recipe: str) -> Path:
    """`images/s0.tif` and so on, `labels/` for the first ones, `r.toml`."""
    for number in range(scenes):
        tif(folder / f"images/s{number}{ending}", bands(number), place(number))
        if number < labeled:
            tif(folder / f"labels/s{number}{ending}", truth(number), place(number))
    write(folder / "r.toml", kit.changed(RECIPE, **recipe))
    return folder


def also(*makes: kit.Make, **recipe: str) -> kit.Make:
    """`rasters`, and then more."""
    return kit.and_then(*makes, first=lambda folder: rasters(folder, **recipe))  # type: ignore[arg-type]


def box(number: int, left: int, right: int, place_of: str = "pixels") -> list[list[float]]:
    """The ring of a rectangle between two columns of a scene."""
    (x0, y0), (x1, y1) = place(number) @ (left, 0), place(number) @ (right, SIDE)
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def geojson(path: Path, rings: list[tuple[str, list[list[float]]]], crs: str | None = UTM) -> None:
    """Polygons with the attribute `class`."""
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for name, ring in rings
    ]
    facts: dict[str, object] = {"type": "FeatureCollection", "features": features}
    if crs:
        facts["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs.removeprefix('EPSG:')}"}}
    write(path, json.dumps(facts))


def polygons(*rings: tuple[str, int, int], crs: str | None = UTM, layout: str = "", only: int = 0) -> kit.Make:
    """`rasters`, the labels of which are polygons; `only`: of how many scenes these are others than the usual ones."""

    def make(folder: Path) -> None:
        rasters(folder, layout='{ name = "rasters", scaling = "imagenet", field = "class"' + layout + " }")
        for number in range(4):
            (folder / f"labels/s{number}.tif").unlink()
            usual = [("land", 0, 20), ("water", 20, 40)]
            chosen = list(rings) if not only or number < only else usual
            geojson(
                folder / f"labels/s{number}.geojson",
                [(name, box(number, left, right)) for name, left, right in chosen],
                crs,
            )

    return make


def table(lines: list[str], *makes: kit.Make) -> kit.Make:
    """`rasters` read by a table."""
    return also(
        *makes,
        lambda d: write(d / "scenes.csv", "image,label,group,split\n" + "".join(f"{line}\n" for line in lines)),
        layout='{ name = "scenes", file = "scenes.csv", scaling = "imagenet" }',
    )


def stacked(folder: Path) -> None:
    """Scenes of two files each."""
    rasters(
        folder,
        layout='{ name = "scenes", file = "scenes.csv", scaling = "imagenet" }',
        mean="[0.4, 0.4, 0.4]",
        std="[0.2, 0.2, 0.2]",
    )
    lines = ["image,label,group,split"]
    for number in range(5):
        (folder / f"images/s{number}.tif").unlink()
        tif(folder / f"images/a{number}.tif", bands(number)[:2], place(number))
        tif(folder / f"images/b{number}.tif", bands(number)[2:], place(number))
        lines.append(f"images/a{number}.tif;images/b{number}.tif,{f'labels/s{number}.tif' if number < 4 else ''},,")
    write(folder / "scenes.csv", "\n".join(lines) + "\n")


def trained(make: kit.Make, *arguments: str, keys: tuple[str, ...] = ()) -> tuple[kit.Make, list[str]]:
    """Scenes, and code that trains on them and predicts `arguments`."""
    settings = [word for key in keys for word in ("--set", key)]
    code = f"""
if go("run", "r.toml", "-o", "o", *{settings!r}):
    sys.exit(9)
sys.exit(go("predict", "o/weights/last.safetensors", *{list(arguments)!r}, "-o", "out"))
"""
    return make, ["python", kit.CALLS + code]


def mercator(folder: Path) -> None:
    """A scene in Web Mercator at 38 degrees north."""
    rasters(folder)
    tif(folder / "new/m.tif", bands(1), Affine(10.0, 0, 2_000_000, 0, -10.0, 4_579_425), "EPSG:3857")


def areas(folder: Path, ended: object) -> str:
    """Sum of the areas of a map, against 400 x 400 m / (1 / cos 38 degrees)^2."""
    import pyogrio.raw

    paths = list((folder / "out").glob("*.gpkg"))
    if not paths:
        return "no polygons"
    meta, _, _, values = pyogrio.raw.read(paths[0])
    total = float(sum(values[list(meta["fields"]).index("area_m2")]))
    right = 400 * 400 * np.cos(np.deg2rad(38)) ** 2
    return "" if abs(total / right - 1) < 0.02 else f"{total:.0f} m2 instead of {right:.0f}"


def one_footprint(folder: Path) -> None:
    rasters(folder)
    for number in range(5):
        tif(folder / f"images/s{number}.tif", bands(number), NORTH)
        if number < 4:
            tif(folder / f"labels/s{number}.tif", truth(number), NORTH)


def black_border(folder: Path) -> None:
    rasters(folder)
    for number in range(5):
        array = bands(number)
        array[:, :, :24] = 0
        tif(folder / f"images/s{number}.tif", array, place(number))


def hole(folder: Path) -> None:
    """Reflectances with a hole of -9999 that the file does not declare."""
    rasters(folder, layout='{ name = "rasters", scaling = "zscore", stats = "stats.json" }')
    for number in range(5):
        array = bands(number).astype(np.float32) / 255
        array[:, 15:28, 15:28] = -9999
        tif(folder / f"images/s{number}.tif", array, place(number))


def units(factor: float, dtype: str) -> kit.Make:
    """Scenes of reflectances 0..1, and a new one in other units."""

    def make(folder: Path) -> None:
        rasters(folder, layout='{ name = "rasters", scaling = "scale", factor = 1.0 }', mean="0.3", std="0.2")
        for number in range(5):
            tif(folder / f"images/s{number}.tif", bands(number).astype(np.float32) / 255, place(number))
        tif(folder / "new/n.tif", (bands(1).astype(np.float32) / 255 * factor).astype(dtype), place(1))

    return make


def described(folder: Path) -> None:
    """Scenes whose files name their bands, and a new one in the other order."""
    rasters(folder)
    for number in range(5):
        with rasterio.open(folder / f"images/s{number}.tif", "r+") as out:
            out.descriptions = ("red", "green", "blue")
    path = tif(folder / "new/n.tif", bands(1)[::-1], place(1))
    with rasterio.open(path, "r+") as out:
        out.descriptions = ("blue", "green", "red")


def labels_all(array: np.ndarray, **recipe: str) -> kit.Make:
    return also(*(lambda d, n=n: tif(d / f"labels/s{n}.tif", array, place(n)) for n in range(4)), **recipe)  # type: ignore[misc]


def empty_vectors(folder: Path) -> None:
    polygons(("land", 0, 20), ("water", 20, 40), layout=', outside = "land"')(folder)
    write(folder / "labels/s1.geojson", '{"type": "FeatureCollection", "features": []}')


def slivers(folder: Path) -> None:
    """Polygons of a third of a pixel, which cover no center."""
    polygons(("land", 0, 20), layout=', outside = "land"')(folder)
    for number in range(4):
        x, y = place(number) @ (12, 12)
        ring = [[x + 1, y - 1], [x + 4, y - 1], [x + 4, y - 4], [x + 1, y - 4], [x + 1, y - 1]]
        geojson(folder / f"labels/s{number}.geojson", [("water", ring)])


BINARY = truth(1) * np.uint8(255)
FOUR = np.stack([truth(1), 1 - truth(1), truth(1) * 0, truth(1)])

CASES: list[Case] = [
    trial("scene-good", "nothing is wrong", rasters, CHECK, READY),
    trial(
        "scene-good-polygons", "nothing is wrong, polygons", polygons(("land", 0, 20), ("water", 20, 40)), CHECK, READY
    ),
    refused(
        "scene-F1-no-crs",
        "GeoJSON in projected coordinates without a `crs` member",
        polygons(("land", 0, 20), ("water", 20, 40), crs=None),
        CHECK,
        "s0.geojson|s1.geojson",
        never="cannot be built",
    ),
    refused(
        "scene-F1-wrong-crs",
        "a `crs` member that is another place",
        polygons(("land", 0, 20), ("water", 20, 40), crs="EPSG:2154"),
        CHECK,
        "geojson",
        never="cannot be built",
    ),
    trial("scene-F2-table-run", "train from a table of `A.tif;B.tif`", stacked, "run r.toml -o o", "best"),
    trial("scene-F2-table-predict", "and predict from it", *trained(stacked, "scenes.csv"), "5 of 5", limit=90),
    trial(
        "scene-F3-mercator",
        "areas in Web Mercator at 38 N",
        *trained(kit.and_then(mercator, first=lambda d: None), "new", "--set", "gpkg=true"),
        proof=areas,
        limit=90,
    ),
    told(
        "scene-F4-shared-run",
        "all scenes on one ground, `run`",
        one_footprint,
        "run r.toml -o o",
        "share ground|shared|overlap|ground",
    ),
    refused("scene-F4-shared-check", "the same, `check`", one_footprint, CHECK, "ground"),
    told(
        "scene-F4-black-run", "a black border without nodata, `run`", black_border, "run r.toml -o o", "nodata|border"
    ),
    refused("scene-F4-black-check", "the same, `check`", black_border, CHECK, "nodata|border"),
    trial("scene-F5-empty-geojson", "an empty GeoJSON, with `field` and `outside`", empty_vectors, CHECK, READY),
    told(
        "scene-F6-overlap",
        "polygons of two classes overlap",
        polygons(("water", 0, 20), ("land", 0, 40), layout=', outside = "land"'),
        CHECK,
        "overlap",
    ),
    told("scene-F6-slivers", "polygons that cover no pixel", slivers, CHECK, "no pixel|cover"),
    told(
        "scene-F6-vanished",
        "a class that no label has",
        labels_all(truth(1) * 0),
        CHECK,
        "warning|note|no labeled pixel",
        "water",
    ),
    trial(
        "scene-F7-TIF",
        "images and labels end in `.TIF`",
        lambda d: rasters(
            d, ending=".TIF", layout='{ name = "rasters", scaling = "imagenet", labels = "{up}/labels/{stem}" }'
        ),
        CHECK,
        READY,
    ),
    trial("scene-F8-no-step", "`check --no-step`", rasters, CHECK + " --no-step"),
    told("scene-F9-bands-label", "labels of four bands", labels_all(FOUR), CHECK, "data.layout.label_band"),
    told(
        "scene-F9-types",
        "`A;B` of uint8 and float32",
        kit.and_then(
            lambda d: [tif(d / f"images/b{n}.tif", bands(n)[2:].astype(np.float32), place(n)) for n in range(5)],
            first=stacked,
        ),
        CHECK + " --set 'data.layout.scaling=\"scale\"' --set data.layout.factor=255.0",
        "b0.tif",
        proof=lambda d, e: (
            "names the wrong file" if "a0.tif has values of type float32" in " ".join(e.text.split()) else ""
        ),
    ),
    told(
        "scene-F9-labels-beside",
        "predict a folder with labels among the scenes",
        *trained(
            also(lambda d: tif(d / "images/s1_y.tif", truth(1), place(9))),
            "images",
            keys=('data.layout.images="images/s?.tif"',),
        ),
        "s1_y.tif",
        limit=90,
    ),
    told(
        "scene-F9-http",
        "`predict http://...`",
        kit.weights,
        "predict w.safetensors http://127.0.0.1:9/x.tif -o out",
        "http://127.0.0.1:9/x.tif",
        code=1,
    ),
    told(
        "scene-F9-geojson-no-crs",
        "predict a scene without CRS with gpkg and geojson",
        *trained(
            also(lambda d: tif(d / "new/n.tif", bands(1), place(1), None)),
            "new",
            "--set",
            "gpkg=true",
            "--set",
            "geojson=true",
        ),
        proof=lambda d, _: "" if list(d.glob("out/*.tif")) else "no map at all",
        limit=90,
    ),
    told(
        "scene-G1-scale-10000",
        "trained on 0..1, predicted x 10,000",
        *trained(units(10_000, "float32"), "new"),
        "note|mean|range|differ",
        limit=90,
    ),
    told("scene-G1-uint16", "the same as uint16", *trained(units(10_000, "uint16"), "new"), "uint16", limit=90),
    told("scene-G2-255", "labels 0/255, two classes by list", labels_all(BINARY), CHECK, "= 255", "water"),
    trial(
        "scene-G2-255-named",
        "the same, `water = 255`",
        labels_all(BINARY, classes="{ land = 0, water = 255 }"),
        CHECK,
        READY,
    ),
    told(
        "scene-G2-no-pixel",
        "all labels ignored",
        labels_all(np.full((SIDE, SIDE), 255, np.uint8)),
        CHECK,
        "no valid|ignored|labeled pixel",
        code=1,
    ),
    told(
        "scene-G3-hole",
        "-9999 inside, not declared, `rs stats`",
        hole,
        "rs stats r.toml -o stats.json",
        "-9999",
        "note|nodata",
    ),
    told(
        "scene-G4-swapped",
        "bands in another order than the names say",
        *trained(described, "new"),
        "blue|band",
        limit=90,
    ),
    told(
        "scene-G6-fgb",
        "labels in FlatGeobuf",
        also(
            *(
                lambda d, n=n: (
                    (d / f"labels/s{n}.tif").unlink(),
                    write(d / f"labels/s{n}.fgb", b"fgb\3fgb\0" + bytes(64)),
                )
                for n in range(4)
            )
        ),
        CHECK,
        "fgb",
        never="not recognized",
    ),
    told(
        "scene-orphan-label",
        "a label without a scene",
        also(lambda d: tif(d / "labels/z9.tif", truth(1), place(9))),
        CHECK,
        "z9",
    ),
    refused(
        "scene-truncated",
        "a scene cut in the middle",
        also(lambda d: (d / "images/s1.tif").write_bytes((d / "images/s1.tif").read_bytes()[:200])),
        CHECK,
        "s1.tif",
    ),
    refused(
        "scene-elsewhere",
        "a label on another grid",
        also(lambda d: tif(d / "labels/s1.tif", truth(1), place(7))),
        CHECK,
        "s1",
    ),
    refused(
        "scene-table-missing",
        "a table names a scene that is not there",
        table(["images/nope.tif,labels/s0.tif,,"]),
        CHECK,
        "nope.tif",
    ),
    refused(
        "scene-unknown-class",
        "a polygon of an unknown class",
        polygons(("land", 0, 20), ("lake", 20, 40)),
        CHECK,
        "lake",
    ),
    left_out("scene-G5", "seams at tiles of 65: a quality, no outcome"),
    left_out("scene-five-commands", "Sen1Floods11 and others: real data"),
    left_out("scene-torchgeo", "torchgeo's dummies of 23 layouts: not here"),
]
