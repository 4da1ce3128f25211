"""What one process of a group does in the tests of evaluation; importable by the processes that it starts."""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from farcluss.data.base import Item, Sample
from farcluss.errors import DataError
from farcluss.inference.card import Card, Inference
from farcluss.inference.evaluation import evaluate
from farcluss.inference.weights import Model
from farcluss.networks.base import Prediction

CLASSES = ("a", "b", "c", "never")


class Brightness(nn.Module):
    """The class of a pixel is its brightness in steps of a quarter; the last class never wins."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.tensor([0.125, 0.5, 0.875, 9.0]))

    def forward(self, images):
        centers = self.centers.view(1, -1, *[1] * (images.ndim - 2))
        return Prediction(-100 * (images.mean(1, keepdim=True) - centers) ** 2, None)


def build_model(axes=2, **inference):
    card = Card(
        network="none", options={}, channels=3, dim=0, classes=list(CLASSES), palette=((0, 0, 0),) * 4,
        mean=[0.0] * 3, std=[1.0] * 3, inference=Inference(**inference),
    )  # fmt: skip
    return Model(Brightness(), card)


class Scenes:
    """Random scenes of several sizes, whose masks follow the brightness more often than not."""

    classes, palette = CLASSES, ((0, 0, 0),) * 4

    def items(self, split):
        return [Item(str(n), str(n), str(n)) for n in range(5)]

    def size(self, item):
        return (7 + int(item.id), 9)

    def read(self, item, window=None):
        if item.image == "broken":
            raise DataError(f"{item.image} cannot be decoded.")
        rng = np.random.default_rng(int(item.image))
        image = rng.integers(0, 256, (1, *self.size(item)), dtype=np.uint8).repeat(3, 0)
        guess = np.digitize(image[0] / 255, [0.3125, 0.6875])
        mask = np.where(rng.random(guess.shape) < 0.3, rng.integers(0, 3, guess.shape), guess).astype(np.uint8)
        mask[rng.random(guess.shape) < 0.1] = 255
        valid = rng.random(guess.shape) < 0.9 if item.image == "3" else None
        return Sample(image, mask if item.mask else None, valid)


def score_as(rank, worlds, meeting, results):
    """Evaluate as `rank` of `world` processes, one world after the other, and hand over the confusion matrices."""
    scenes = Scenes()
    for world in worlds:
        if rank < world:
            dist.init_process_group("gloo", f"file://{meeting}{world}", rank=rank, world_size=world)
            scores = evaluate(build_model(), scenes, scenes.items("val"), rank=rank, world=world)
            results.put((world, rank, scores.confusion.tolist(), str(scores.confusion.dtype)))
            dist.destroy_process_group()
