"""The contract of networks."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Prediction(NamedTuple):
    """The output of a network.

    Attributes:
        logits: `(B, C, *S)`, at the size of the input.
        embeddings: `(B, D, *s)` of the embedding head on the decoder's features; None if built with `dim = 0`.
    """

    logits: Tensor
    embeddings: Tensor | None


class NetworkModule(Protocol):
    """What an entry point of the group `farcluss.network` returns: an `nn.Module`.

    The entry point is called as `build(in_channels, classes, dim, pretrained, **options)`: image channels, number of
    classes, embedding size (0: no embedding head) and `True`, a path or `False`. It takes images of any size,
    normalized by the recipe's mean and std.
    """

    def __call__(self, images: Tensor) -> Prediction:
        """Prediction for `images` `(B, Cin, *S)`."""

    def head_parameters(self) -> list[str]:
        """Names of the parameters that learn at `train.head_lr`: all but the pretrained encoder's."""


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
