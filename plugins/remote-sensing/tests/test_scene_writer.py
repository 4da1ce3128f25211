"""Maps lie where their scenes lie and say what the network says; what is interrupted goes on and changes no bit."""

import json
import os
import signal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import torch
from commandline import cli
from drawn_scenes import CLASSES, GEOGRAPHIC, ROTATED, Drawing, draw_scene, write
from rio_cogeo.cogeo import cog_validate
from tiny_network import TinyNetwork
from torch import nn

from farcluss import plugins
from farcluss.errors import DataError, WeightsError
from farcluss.networks.base import Prediction
from farcluss.weights import Card, Inference, Model, save_weights
from farcluss_remote_sensing import whole_scenes, writer
from farcluss_remote_sensing.files import close_all
from farcluss_remote_sensing.stitching import stitched_rows
from farcluss_remote_sensing.writer import GeoTiffWriter

PALETTE = ((0, 0, 200), (220, 220, 60), (0, 120, 0), (200, 30, 30))
POINT = Drawing(transform=GEOGRAPHIC, crs="EPSG:4326")
DRAWINGS = {
    "plain": Drawing(),
    "rotated": Drawing(transform=ROTATED),
    "geographic": POINT,
    "south up": Drawing(transform=rasterio.Affine(10.0, 0, 500_000 + 1 / 3, 0, 10.0, 5e6 + 1 / 7)),
    "no crs": Drawing(crs=None),
    "nodata": Drawing(nodata=0, collar=6),
    "nan": Drawing(dtype="float32", collar=6),
    "picture": Drawing(dtype="uint8", crs=None, transform=rasterio.Affine.identity()),
}


class Oracle(nn.Module):
    """Says of each pixel what class the first band means there, if it is a drawing's class."""

    def __init__(self, in_channels, classes, dim, pretrained):
        super().__init__()
        self.values = nn.Parameter(torch.arange(classes, dtype=torch.float32))

    def forward(self, images):
        return Prediction(-5 * (images[:, :1] - self.values.view(1, -1, 1, 1)).abs(), None)


class Deadly(Oracle):
    """Ends its process at the second forward."""

    calls = 0

    def forward(self, images):
        Deadly.calls += 1
        if Deadly.calls > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def card(channels=5, network="tiny", window=(32, 32), stats=(), **layout) -> Card:
    options = {"name": "rasters", "scaling": "scale", "factor": 10_000.0, "stats": list(stats), **layout}
    recipe = {"data": {"layout": options}, "eval": {"writer": "geotiff"}}
    return Card(network=network, options={}, channels=channels, dim=0, classes=list(CLASSES), palette=PALETTE,
                mean=[0.5] * channels, std=[0.2] * channels, recipe=recipe, source="run", step=7,
                inference=Inference(window=window, stride=0.5))  # fmt: skip


def tiny(channels=5) -> TinyNetwork:
    """A network with several classes in its predictions, which sees one pixel around each."""
    torch.manual_seed(1)
    network = TinyNetwork(channels, 4, 0, False)
    for parameter in network.parameters():
        parameter.data *= 4
    return network.eval()


def run(built, model, files, target):
    """Predict to the end; what has been said on the way."""
    files = files if isinstance(files, tuple) else (files,)
    return list(built.predict(model, files, target))


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def in_one_piece(model, drawing):
    """Probabilities `(C, H, W)` of a whole scene by the network alone, invalid pixels at the mean."""
    scaled = torch.from_numpy((drawing.values() / 10_000.0).astype(np.float32))
    scaled[:, torch.from_numpy(drawing.invalid())] = 0.5
    with torch.no_grad():
        return model.network((scaled[None] - 0.5) / 0.2).logits.double().softmax(1)[0].numpy()


@pytest.fixture
def networks():
    for name, network in (("tiny", TinyNetwork), ("oracle", Oracle), ("deadly", Deadly)):
        plugins.register("network", name, network)
    yield
    for name in ("tiny", "oracle", "deadly"):
        plugins.unregister("network", name)


@pytest.mark.parametrize("cog", [True, False], ids=["cog", "plain"])
@pytest.mark.parametrize("name", DRAWINGS)
class TestGeometry:
    def test_class_in_class_out_where_the_scene_lies(self, tmp_path, name, cog):
        """Any pixel that is moved or lost shows."""
        drawing = DRAWINGS[name]
        bands = drawing.values()[:1]
        truth = drawing.classes()
        bands[0][~drawing.invalid()] = truth[~drawing.invalid()] + 1
        scene = write(tmp_path / "scene.tif", bands, drawing, nodata=drawing.nodata)
        facts = card(1, "oracle", factor=1.0).model_copy(update={"mean": [1.0], "std": [1.0]})
        run(GeoTiffWriter(facts, cog=cog), Model(Oracle(1, 4, 0, False), facts), scene, tmp_path / "out" / "scene")
        with rasterio.open(scene) as given, rasterio.open(tmp_path / "out" / "scene.tif") as found:
            assert tuple(found.transform) == tuple(given.transform)
            assert found.crs == given.crs and found.shape == given.shape
            assert (found.crs and found.crs.to_wkt()) == (given.crs and given.crs.to_wkt())
            assert (found.dtypes, found.nodata) == (("uint8",), 255)
            np.testing.assert_array_equal(found.read(1), np.where(drawing.invalid(), 255, truth))


def test_smoke(tmp_path):
    scene = draw_scene(tmp_path / "scene.tif")
    model = Model(tiny(), card())
    steps = run(GeoTiffWriter(card(), probs=True, entropy=True), model, scene, tmp_path / "out" / "scene")
    print(steps, list((tmp_path / "out").iterdir()))
    print(rasterio.open(tmp_path / "out" / "scene.tif").tags(), (tmp_path / "out" / "scene.tif.aux.xml").read_text())
    probs = read(tmp_path / "out" / "scene_probs.tif")
    truth = in_one_piece(model, Drawing())
    np.testing.assert_allclose(probs, truth, atol=1e-6)
    np.testing.assert_array_equal(read(tmp_path / "out" / "scene.tif")[0], truth.argmax(0))
    print(np.bincount(truth.argmax(0).ravel()), cog_validate(tmp_path / "out" / "scene.tif", strict=True))
