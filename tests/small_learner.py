"""A learner of a few pixels and classes, in float64, and a batch for it."""

import copy

import torch
from tiny_network import TinyNetwork

from farcluss.data.base import IGNORE
from farcluss.learning.batches import Batch
from farcluss.learning.contracts import Stages
from farcluss.learning.learner import Learner
from farcluss.networks.normalize import Normalize
from farcluss.recipes.training import Loss
from farcluss.stages.augment import Identity
from farcluss.stages.contrast import Prototype
from farcluss.stages.mix import NoMix
from farcluss.stages.perturb import NoPerturb
from farcluss.stages.pseudo_label import Fuzzy
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import EntropyWeight

CLASSES = 4


def make(loss: Loss | None = None, axes: int = 2, **stages) -> Learner:
    torch.manual_seed(0)
    chosen = {
        "augment": Identity(),
        "mix": NoMix(),
        "perturb": NoPerturb(),
        "pseudo_label": Fuzzy(top_k=3),
        "weight": EntropyWeight(),
        "rebalance": MedianFrequency(max_weight=10.0, normalize="mean"),
        "contrast": Prototype(dim=3, confidence=0.3),
    } | stages
    student = TinyNetwork(2, CLASSES, chosen["contrast"].dim, False, axes=axes).double()
    for parameter in student.parameters():
        parameter.data *= 4  # far from uniform predictions
    normalize = Normalize([0.2, 0.4], [0.5, 0.25]).double()
    return Learner(student, copy.deepcopy(student).eval(), Stages(**chosen), normalize, loss or Loss(), CLASSES)


def make_batch(axes: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(5)
    size = (6, 7) if axes == 2 else (3, 4, 5)
    images, unlabeled = (torch.rand(2, 2, *size, generator=generator).double() for _ in range(2))
    masks = torch.randint(0, CLASSES, (2, *size), generator=generator)
    masks[0, 0] = IGNORE
    valid = torch.rand(2, *size, generator=generator) > 0.2
    return Batch(images, masks.to(torch.uint8), unlabeled, valid, masks.to(torch.uint8))
