"""The five stages of a recipe as one value, and what is demanded of what they give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from farcluss.errors import FarclussError, PluginError
from farcluss.stages.base import Augment, Contrast, PseudoLabel, Rebalance, Weight
from farcluss.tensors.timing import span

T = TypeVar("T")


@dataclass(frozen=True)
class Stages:
    """The five stages, built."""

    augment: Augment
    pseudo_label: PseudoLabel
    weight: Weight
    rebalance: Rebalance
    contrast: Contrast
    names: dict[str, str] = field(default_factory=dict)
    """The plugin of each kind, for messages."""

    def modules(self) -> dict[str, nn.Module]:
        """Stage by kind, in the order of the data."""
        return {kind: stage for kind, stage in vars(self).items() if kind != "names"}

    def call(self, kind: str, stage: Callable[..., T], *arguments: Any, gives: type[T]) -> T:
        """What a stage, or one of its methods, gives.

        Raises:
            PluginError: the stage fails, or gives another type; names the plugin.
        """
        try:
            with span(kind):
                result = stage(*arguments)
        except (FarclussError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise PluginError(f"Plugin {self.name(kind)} fails: {type(error).__name__}: {error}") from error
        if not isinstance(result, gives):
            given, due = type(result).__name__, gives.__name__
            raise PluginError(f"Plugin {self.name(kind)} gives a {given} where a {due} is due; see docs/plugins.md.")
        return result

    def name(self, kind: str) -> str:
        """`kind/name` of the plugin of a kind."""
        return f"{kind}/{self.names.get(kind, type(self.modules()[kind]).__name__)}"

    def expect(self, kind: str, what: str, shape: Sequence[int], due: Sequence[int]) -> None:
        """Refuse a stage's tensor of a wrong shape. Raises PluginError that names the plugin."""
        expect(self.name(kind), what, shape, due)


def expect(plugin: str, what: str, shape: Sequence[int], due: Sequence[int]) -> None:
    """Refuse what a plugin gives in a wrong shape; costs nothing, since shapes live on the host. Raises PluginError."""
    if tuple(shape) != tuple(due):
        raise PluginError(
            f"Plugin {plugin} gives {what} of shape {tuple(shape)} where {tuple(due)} is due; see docs/plugins.md."
        )
