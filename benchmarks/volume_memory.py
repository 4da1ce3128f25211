"""Memory and time of predicting one large volume, from its file to the prediction's, with a network of one layer.

python benchmarks/volume_memory.py
python benchmarks/volume_memory.py --size 256 256 100
python benchmarks/volume_memory.py --spacing 1 1 1       # resampled for the network, and back

Noise in voxels of 0.8 x 0.8 x 1 mm, one channel, int16, uncompressed; windows of 128^3 voxels that overlap by half,
with Gaussian weights. The peak is that of the process, with all libraries and what the mapped file takes.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from recording import record
from torch import Tensor, nn

from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import Model
from farcluss.networks.base import Prediction
from farcluss_medical.writer import NiftiWriter


class Layer(nn.Module):
    """Stands for a network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, classes, 1)

    def forward(self, images: Tensor) -> Prediction:
        """Logits of `images` `(B, 1, *S)`."""
        return Prediction(self.layer(images), None)


def draw(path: Path, size: tuple[int, ...]) -> None:
    """Write noise, plane by plane."""
    rng = np.random.default_rng(0)
    voxels = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.int16, size)
    for plane in range(size[2]):
        voxels[..., plane] = rng.integers(-1000, 1000, size[:2], np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.8, 0.8, 1, 1])), path)


def card(classes: int, spacing: list[float] | None) -> Card:
    """What weights files say of such a network."""
    names = [f"class {index}" for index in range(classes)]
    layout = {"name": "scans", "spacing": spacing, "fingerprint": [], "slice_axis": "auto"}
    recipe = {"data": {"layout": layout, "classes": {name: [index] for index, name in enumerate(names)}}}
    inference = Inference(window=(128, 128, 128), stride=0.5, blend="gaussian")
    return Card(network="layer", options={}, channels=1, dim=0, classes=names, palette=((0, 0, 0),) * classes,
                mean=[0.0], std=[1.0], axes=3, inference=inference, recipe=recipe)  # fmt: skip


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--spacing", type=float, nargs=3, default=None)
    options = parser.parse_args()
    size = tuple(options.size)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scan = Path(name) / "scan.nii"
        draw(scan, size)
        scan.with_suffix(".npy").unlink()
        before = peak()
        start = time.perf_counter()
        facts = card(options.classes, options.spacing)
        NiftiWriter(facts).predict(Model(Layer(options.classes), facts), (scan,), Path(name) / "prediction")
        seconds = time.perf_counter() - start
    figures = {"size": size, "classes": options.classes, "spacing": options.spacing, "before_gib": round(before, 2),
               "peak_gib": round(peak(), 2), "seconds": round(seconds)}  # fmt: skip
    print("  ".join(f"{key} {value}" for key, value in figures.items()))
    record("volume_memory", figures)


if __name__ == "__main__":
    main()
