"""Perturbed features: the kinds of `stages.perturb`."""

from typing import Literal

import torch
from torch import Tensor

from farcluss.errors import PluginError
from farcluss.plugins.options import Share
from farcluss.stages.base import Perturb, Scene, View
from farcluss.tensors.draws import common_draws, rows


class NoPerturb(Perturb):
    """Features stay as they are."""

    point = ""

    def draw(self, views: tuple[View, ...], scene: Scene, channels: tuple[int, ...]) -> tuple[View, ...]:
        """The same views."""
        return views

    def forward(self, maps: tuple[Tensor, ...], drawn: Tensor) -> tuple[Tensor, ...]:
        """The same maps."""
        return maps


class FeatureDropout(Perturb):
    """One more view, the weak one, whose features lose channels (UniMatch, Yang et al. 2023).

    Channels of each map and image are dropped independently, the others multiplied by `1 / (1 - p)`. The view is the
    last one; it is not mixed.

    Shape:
        maps `(B, Cf, *s)` with any number of axes.

    Args:
        p: probability that a channel is dropped.
        point: which features; encoder: the maps that the decoder reads; fused: the input of the last convolutions.
    """

    def __init__(self, *, p: Share = 0.5, point: Literal["encoder", "fused"] = "encoder") -> None:
        super().__init__()
        self.p, self.point = p, point

    def draw(self, views: tuple[View, ...], scene: Scene, channels: tuple[int, ...]) -> tuple[View, ...]:
        """The views and the weak one, with the factors `(B, Cf1 + Cf2 + ...)` of its channels."""
        images = scene.weak.images
        total, mine = rows(len(images))
        with common_draws():
            kept = (torch.rand(total, sum(channels), device=images.device) >= self.p)[mine]
        return (*views, scene.weak._replace(drawn=kept.float() / max(1 - self.p, torch.finfo(torch.float32).tiny)))

    def forward(self, maps: tuple[Tensor, ...], drawn: Tensor) -> tuple[Tensor, ...]:
        """Maps times the factors of their channels."""
        factors = torch.split(drawn, [each.shape[1] for each in maps], 1)
        return tuple(times(each, factor) for each, factor in zip(maps, factors, strict=True))


class ComplementaryDropout(Perturb):
    """Of each channel one of two views keeps twice the value, the other none (UniMatch V2, Yang et al. 2024).

    All maps of an image lose the same channels, as those of a vision transformer do; of maps with different numbers of
    channels, those with the same index.

    Shape:
        maps `(B, Cf, *s)` with any number of axes.

    Args:
        unchanged: share of the batch's images whose features stay as they are, rounded down.
        point: which features; encoder: the maps that the decoder reads; fused: the input of the last convolutions.
    """

    def __init__(self, *, unchanged: Share = 0.5, point: Literal["encoder", "fused"] = "encoder") -> None:
        super().__init__()
        self.unchanged, self.point = unchanged, point

    def draw(self, views: tuple[View, ...], scene: Scene, channels: tuple[int, ...]) -> tuple[View, ...]:
        """Both views with the factors `(B, Cf)` of their channels. Raises PluginError for other than two views."""
        if len(views) != 2:
            raise PluginError(
                f"perturb/complementary-dropout needs two strong views, not {len(views)}.\n"
                "Set stages.augment.views = 2."
            )
        images = scene.weak.images
        total, mine = rows(len(images))
        with common_draws():
            kept = (torch.rand(total, max(channels), device=images.device) < 0.5)[mine]
            order = torch.rand(total, device=images.device).argsort().argsort()[mine]
        stays = (order < int(self.unchanged * total)).unsqueeze(1)
        first, second = (torch.where(stays, 1.0, 2.0 * each) for each in (kept, ~kept))
        return views[0]._replace(drawn=first), views[1]._replace(drawn=second)

    def forward(self, maps: tuple[Tensor, ...], drawn: Tensor) -> tuple[Tensor, ...]:
        """Maps times the factors of their channels."""
        return tuple(times(each, drawn[:, : each.shape[1]]) for each in maps)


def times(maps: Tensor, factors: Tensor) -> Tensor:
    """`maps` `(B, Cf, *s)` times `factors` `(B, Cf)`, in the dtype of the maps."""
    return maps * factors.to(maps.dtype).view(*factors.shape, *[1] * (maps.dim() - 2))
