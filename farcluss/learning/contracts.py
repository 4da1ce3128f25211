"""The stages of a recipe, with checks of what they return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from farcluss.errors import FAILURES, FarclussError, PluginError, RecipeError, short
from farcluss.recipes.training import Loss
from farcluss.stages.base import Augment, Contrast, Mix, Perturb, PixelWeight, PseudoLabel, View
from farcluss.tensors.timing import span

T = TypeVar("T")


@dataclass(frozen=True)
class Stages:
    """The stages, built."""

    augment: Augment
    mix: Mix
    perturb: Perturb
    pseudo_label: PseudoLabel
    weight: PixelWeight
    rebalance: PixelWeight
    contrast: Contrast
    names: dict[str, str] = field(default_factory=dict)
    """Plugin name of each kind, for messages."""

    def modules(self) -> dict[str, nn.Module]:
        """Stages by kind, in the order of the data flow."""
        return {kind: stage for kind, stage in vars(self).items() if kind != "names"}

    def call(self, kind: str, stage: Callable[..., T], *arguments: Any, returns: type[T]) -> T:
        """Call a stage, or one of its methods, and check the type of its result.

        Raises:
            PluginError: the stage fails, or returns another type; names the plugin.
        """
        try:
            with span(kind):
                result = stage(*arguments)
        except (FarclussError, torch.OutOfMemoryError):
            raise
        except FAILURES as error:
            raise PluginError(f"Plugin {self.name(kind)} fails: {type(error).__name__}: {short(error)}.") from error
        if not isinstance(result, returns):
            actual, expected = type(result).__name__, returns.__name__
            raise PluginError(f"Plugin {self.name(kind)} returns a {actual}, not a {expected}; see docs/plugins.md.")
        return result

    def name(self, kind: str) -> str:
        """`kind/name` of the plugin of a kind."""
        return f"{kind}/{self.names.get(kind, type(self.modules()[kind]).__name__)}"

    def expect(self, kind: str, what: str, shape: Sequence[int], expected: Sequence[int]) -> None:
        """Check the shape of a stage's tensor. Raises PluginError that names the plugin."""
        expect(self.name(kind), what, shape, expected)

    def expect_views(self, kind: str, views: tuple[Any, ...], like: View) -> None:
        """Check that there are views, and their shapes. Raises PluginError that names the plugin."""
        if not views or not all(isinstance(view, View) for view in views):
            found = ", ".join(type(view).__name__ for view in views)
            raise PluginError(f"Plugin {self.name(kind)} returns ({found}), not views; see docs/plugins.md.")
        for view in views:
            self.expect(kind, "a view", view.images.shape, like.images.shape)
            for name, tensor in vars(view.labels).items():
                self.expect(kind, f"{name} of labels", tensor.shape, getattr(like.labels, name).shape)
            if view.share is not None:
                self.expect(kind, "shares of images", view.share.shape, like.images.shape[:1])


MANY = 64
"""Classes from which on logits at the size of the image are most of a step's memory."""


def in_bands(loss: Loss, classes: int, network: nn.Module) -> bool:
    """Whether the student's logits are upsampled within the loss; Dice losses need the probabilities of whole images.

    Raises:
        RecipeError: it is asked for, but cannot be.
    """
    dice = loss.supervised == "dice-cross-entropy" or loss.unsupervised * loss.unsupervised_dice > 0
    able = getattr(network, "coarse_logits", False)
    if loss.upsampling == "bands" and (dice or not able):
        why = "Dice losses need whole images" if dice else "the network gives logits of the image's size alone"
        raise RecipeError(f'loss.upsampling = "bands" is not possible: {why}.\nSet it to "auto".')
    return able and not dice and (loss.upsampling == "bands" or (loss.upsampling == "auto" and classes >= MANY))


def expect(plugin: str, what: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    """Check the shape of a plugin's tensor, without a host sync. Raises PluginError."""
    if tuple(shape) != tuple(expected):
        raise PluginError(
            f"Plugin {plugin} returns {what} of shape {tuple(shape)}, not {tuple(expected)}; see docs/plugins.md."
        )
