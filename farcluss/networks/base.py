"""The contract of networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from farcluss.tensors.upsampling import Upsampling


class Prediction(NamedTuple):
    """The output of a network.

    Attributes:
        logits: `(B, C, *S)`, at the size of the input.
        embeddings: `(B, D, *s)` of the embedding head on the decoder's features; None if built with `dim = 0`.
    """

    logits: Tensor
    embeddings: Tensor | None


class CoarsePrediction(NamedTuple):
    """The output of a network that is asked for logits of its decoder's size.

    Attributes:
        logits: `(B, C, h, w)`; `(B, C, *S)` without `upsampling`.
        embeddings: as of `Prediction`.
        upsampling: how these logits become those of the pixels; None where they are.
    """

    logits: Tensor
    embeddings: Tensor | None
    upsampling: Upsampling | None


class Perturbation(NamedTuple):
    """What is to change features inside a forward, see `farcluss.stages.base.Perturb`.

    Attributes:
        stage: from maps and parameters of some images to changed maps.
        point: of the network.
        rows: numbers of images of the forward that have parameters in common, or none; in their order.
        drawn: parameters of each of these groups; None for unchanged ones.
    """

    stage: Any
    point: str
    rows: tuple[int, ...]
    drawn: tuple[Tensor | None, ...]


def perturbed(maps: tuple[Tensor, ...], point: str, perturbation: Perturbation | None) -> tuple[Tensor, ...]:
    """A network's `maps`, each `(B, Cf, *s)`, at one of its points, changed if the perturbation is for it."""
    if perturbation is None or perturbation.point != point:
        return maps
    groups = zip(*(torch.split(each, list(perturbation.rows)) for each in maps), strict=True)
    changed = [
        group if drawn is None else perturbation.stage(group, drawn)
        for group, drawn in zip(groups, perturbation.drawn, strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*changed, strict=True))


class NetworkModule(Protocol):
    """What an entry point of the group `farcluss.network` returns: an `nn.Module`.

    The entry point is called as `build(in_channels, classes, dim, pretrained, **options)`: image channels, number of
    classes, embedding size (0: no embedding head) and `True`, a path or `False`. It takes images of any size,
    normalized by the recipe's mean and std.

    A network may offer points at which features can be perturbed: by an attribute `points`, and by an argument of its
    forward that it hands to `perturbed` there. One without is called with images alone.

    A network whose whole encoder is frozen may say so by an attribute `frozen = True`, a method `encode` from images to
    the encoder's maps, and an argument `maps` of its forward, which then takes them in place of the encoder's work. So
    images that student and teacher both see are encoded once. `depths` (of the encoder's parameters by name) is what
    `train.layer_decay` asks for, `no_weight_decay` (names) what `train.decay_norms = false` does; `patch` is what crops
    should be a multiple of. A network with an attribute `coarse_logits = True` and an argument `coarse` of its forward
    returns a `CoarsePrediction` where that is true.

    Attributes:
        points: channels of the maps at each point, by its name.
    """

    points: dict[str, tuple[int, ...]]

    def __call__(self, images: Tensor, perturbation: Perturbation | None = None) -> Prediction:
        """Prediction for `images` `(B, Cin, *S)`."""

    def head_parameters(self) -> list[str]:
        """Names of the parameters that learn at `train.head_lr`: all but the pretrained encoder's."""


def points_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The points of a network; none of one that offers none."""
    points: dict[str, tuple[int, ...]] = getattr(network, "points", {})
    return points


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Context with the network in evaluation mode; then each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """The network with synchronized batch norm; CUDA only.

    Converted by timm: torch's conversion would drop the activations that timm's norms contain.
    """
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted
