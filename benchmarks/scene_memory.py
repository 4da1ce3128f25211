"""Memory and time of predicting one large scene, from its file to the map's, with a network of one layer.

python benchmarks/scene_memory.py
python benchmarks/scene_memory.py --window 1024

A sparse file of four bands, uint16, no nodata value, so that every tile is predicted; tiles that overlap by a third,
squared sines as weights, a cloud-optimized map. The peak is that of the process, with all libraries.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import rasterio
import torch
from recording import record
from torch import Tensor, nn

from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import Model
from farcluss.networks.base import Prediction
from farcluss_remote_sensing.writer import GeoTiffWriter

BANDS = 4


class Layer(nn.Module):
    """Stands for a network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(BANDS, classes, 1)

    def forward(self, images: Tensor) -> Prediction:
        """Logits of `images` `(B, BANDS, H, W)`."""
        return Prediction(self.layer(images), None)


def draw(path: Path, size: int) -> None:
    """Make a file of which nothing is written."""
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    form = {"driver": "GTiff", "dtype": "uint16", "count": BANDS, "height": size, "width": size, "sparse_ok": True}
    with rasterio.open(path, "w", **form, **place, tiled=True, blockxsize=512, blockysize=512, bigtiff="IF_SAFER"):
        pass


def card(classes: int, window: int) -> Card:
    """What weights files say of such a network."""
    layout = {"name": "rasters", "scaling": "scale", "factor": 10_000.0, "stats": [], "bands": [], "warp": False}
    recipe = {"data": {"layout": {**layout, "window": 1024}}}
    return Card(network="layer", options={}, channels=BANDS, dim=0, classes=[f"class {n}" for n in range(classes)],
                palette=((0, 0, 0),) * classes, mean=[0.0] * BANDS, std=[1.0] * BANDS, recipe=recipe,
                inference=Inference(window=(window, window)))  # fmt: skip


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--window", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scene = Path(name) / "scene.tif"
        draw(scene, options.size)
        before = peak()
        start = time.perf_counter()
        facts = card(options.classes, options.window)
        steps = GeoTiffWriter(facts).predict(Model(Layer(options.classes), facts), (scene,), Path(name) / "map")
        for _ in steps:
            pass
        seconds = time.perf_counter() - start
        with rasterio.open(Path(name) / "map.tif") as file:
            assert file.shape == (options.size, options.size)
    figures = {**vars(options), "before_gib": round(before, 2), "peak_gib": round(peak(), 2), "seconds": round(seconds)}
    print("  ".join(f"{key} {value}" for key, value in figures.items()))
    record("scene_memory", figures)


if __name__ == "__main__":
    main()
