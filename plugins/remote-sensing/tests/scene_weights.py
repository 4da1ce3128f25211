"""Networks with the facts that weights files carry of scenes, and what they say of drawings."""

import numpy as np
import rasterio
import torch
from drawn_scenes import CLASSES
from tiny_network import TinyNetwork

from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import Model
from farcluss_remote_sensing.files import close_all
from farcluss_remote_sensing.writer import GeoTiffWriter

PALETTE = ((0, 0, 200), (220, 220, 60), (0, 120, 0), (200, 30, 30))


def card(channels=5, network="tiny", window=(32, 32), stats=(), **layout) -> Card:
    options = {"name": "rasters", "scaling": "scale", "factor": 10_000.0, "stats": list(stats)}
    options |= {"bands": [], "warp": False, "window": 1024, **layout}
    recipe = {"data": {"layout": options}, "eval": {"writer": "geotiff"}}
    return Card(network=network, options={}, channels=channels, dim=0, classes=list(CLASSES), palette=PALETTE,
                mean=[0.5] * channels, std=[0.2] * channels, recipe=recipe, source="run", step=7,
                inference=Inference(window=window, stride=0.5))  # fmt: skip


def tiny() -> TinyNetwork:
    """A network that sees a pixel and its neighbors, and finds all classes in a drawing."""
    torch.manual_seed(11)
    network = TinyNetwork(5, 4, 0, False)
    for parameter in network.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 0
    return network.eval()


def predict(files, target, model=None, steps=None, **options) -> list:
    """What a writer says on the way; all of it, or `steps` of its steps."""
    model = model or Model(tiny(), card())
    run = GeoTiffWriter(model.card, **options).predict(model, files if isinstance(files, tuple) else (files,), target)
    said = list(run) if steps is None else [next(run) for _ in range(steps)]
    run.close()
    close_all()  # a test may change the files
    return said


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def in_one_piece(drawing, network=None):
    """Probabilities `(C, H, W)` of a whole scene by the network alone, invalid pixels at the mean, in float64."""
    scaled = (drawing.values() / 10_000.0).astype(np.float32)
    scaled[:, drawing.invalid()] = 0.5
    with torch.no_grad():
        logits = (network or tiny())((torch.from_numpy(scaled)[None] - 0.5) / 0.2).logits
    return logits.double().softmax(1)[0].numpy()
