"""Data sets of drawn scenes, and what they have to report."""

from drawn_scenes import CLASSES, NORTH_UP, Drawing, draw_label, draw_scene
from rasterio.transform import Affine

from farcluss.recipes.model import Data
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene

VALUES = dict(zip(CLASSES, range(1, 5), strict=True))
PLAIN = Drawing()


def data_of(root, **changes):
    facts = {"root": root, "channels": 5, "mean": 0.0, "std": 1.0, "classes": VALUES, "ignore_index": 0, "val": "val"}
    return Data(**facts | changes)


def findings(root, splits, window=1024, **changes):
    """What a data set of these scenes has to report when it leaves out what cannot be used."""
    data = data_of(root, on_error="skip", **changes)
    return scene_dataset(data, Index(splits), scaling="scale", window=window, min_valid=0.0).findings()


def scene(root, name, drawing=None, group="", labeled=True):
    """A scene that is drawn, at 10 km from others of other names unless `drawing` says where."""
    one = drawing or Drawing(transform=Affine.translation(10_000.0 * ord(name[0]), 0) @ NORTH_UP)
    image = draw_scene(root / f"{name}.tif", one)
    return Scene(name, (str(image),), str(draw_label(root / f"{name}-label.tif", one)) if labeled else None, group)


def shifted(columns, rows=0.0, drawing=PLAIN):
    """A drawing whose pixels lie so many columns and rows farther on."""
    return drawing.but(transform=drawing.transform @ Affine.translation(columns, rows))
