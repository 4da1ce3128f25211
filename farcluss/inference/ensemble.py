"""Several weights files as one model, whose probabilities are the mean of theirs."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farcluss.errors import WeightsError
from farcluss.inference.probs import running_mean
from farcluss.inference.weights import Model, load
from farcluss.networks.base import Prediction
from farcluss.tensors.precision import safe_log, wide_softmax

ALIKE = ("classes", "channels", "mean", "std")
"""What the cards of one ensemble must agree in."""


class Mean(nn.Module):
    """Models as one network: its logits are the logarithm of the mean of their probabilities."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self.models = list(models)
        self.networks = nn.ModuleList(model.network for model in models)

    def forward(self, images: Tensor) -> Prediction:
        """Prediction without embeddings, of normalized images `(B, Cin, *S)`."""
        probs = running_mean(wide_softmax(network(images).logits) for network in self.networks)
        return Prediction(safe_log(probs), None)


def members(model: Model) -> list[Model]:
    """The models of an ensemble; the model itself if it is none."""
    return model.network.models if isinstance(model.network, Mean) else [model]


def load_together(paths: Sequence[str | os.PathLike[str]], device: str | torch.device = "cpu") -> Model:
    """A model whose probabilities are the mean of those of one or more weights files.

    Windows, stride and everything else that the cards need not agree in are those of the first file.

    Raises:
        WeightsError: see `farcluss.inference.weights.load`; or the files differ in classes, channels, mean or std.
        PluginError: the network's plugin is not installed.
    """
    models = [load(path, device) for path in paths]
    if len(models) == 1:
        return models[0]
    first = models[0].card
    for path, model in zip(paths[1:], models[1:], strict=True):
        for name in ALIKE:
            own, other = getattr(first, name), getattr(model.card, name)
            if own != other:
                raise WeightsError(
                    f"{path} and {paths[0]} cannot be averaged, they differ in {name}: {other} and {own}."
                )
    source = ", ".join(dict.fromkeys(filter(None, (model.card.source for model in models))))
    return Model(Mean(models).eval(), first.model_copy(update={"source": source, "scores": {}}))
