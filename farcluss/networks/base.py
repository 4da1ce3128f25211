"""The contract of networks."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from farcluss.errors import counted


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


def misfit(module: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """How many tensors differ from those of a module, and the first that does, with both shapes; empty for none."""
    wanted, given = ({name: tuple(tensor.shape) for name, tensor in t.items()} for t in (module.state_dict(), tensors))
    wrong = [name for name in (*wanted, *(given.keys() - wanted)) if wanted.get(name) != given.get(name)]
    if not wrong:
        return ""
    first, own = (str(shapes.get(wrong[0], "missing")) for shapes in (given, wanted))
    return f"{counted(len(wrong), 'tensor')} of {len(wanted):,} differ, the first is {wrong[0]}: {first}, not {own}"


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """The network with synchronized batch norm; CUDA only.

    Converted by timm: torch's conversion would drop the activations that timm's norms contain.
    """
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted
