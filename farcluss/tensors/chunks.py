"""Pixel-wise work in chunks, so that its temporary memory is small for any image and batch size."""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

# Values per chunk: on a CPU what fits its cache, elsewhere enough to outweigh the launch of a kernel.
CPU_VALUES, DEVICE_VALUES = 2**18, 2**22

Box = tuple[slice, ...]


def boxes(tensor: Tensor) -> Iterator[Box]:
    """Indices that cut `(B, C, *S)` into chunks of bounded size, each of them a view with all its channels.

    The same indices cut any other tensor `(B, ?, *S)`. When compiling there is one chunk: the compiler fuses the work.
    """
    if torch.compiler.is_compiling():
        yield (slice(None),)
        return
    values = CPU_VALUES if tensor.device.type == "cpu" else DEVICE_VALUES
    batch, channels, *space = tensor.shape
    for rows, *box in _split((batch, *space), max(1, values // channels)):
        yield rows, slice(None), *box


def _split(shape: Sequence[int], pixels: int) -> Iterator[Box]:
    """Slices of the first axes of a shape, at most `pixels` each: runs along one axis, single indices before it."""
    inner = prod(shape[1:])
    if inner <= pixels:
        step = pixels // max(1, inner)
        yield from ((slice(start, start + step),) for start in range(0, shape[0], step))
        return
    for start in range(shape[0]):
        yield from ((slice(start, start + 1), *rest) for rest in _split(shape[1:], pixels))


def by_chunks(function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`function(*tensors)`, computed chunk by chunk of the first tensor.

    Args:
        function: of tensors `(B, ?, *S)` to tensors `(B, ?, *S)`, pixel by pixel.
        tensors: `(B, ?, *S)`, the first with the most channels.
    """
    cuts = list(boxes(tensors[0]))
    if len(cuts) <= 1:
        return tuple(function(*tensors))
    batch, _, *space = tensors[0].shape
    results: tuple[Tensor, ...] = ()
    for cut in cuts:
        parts = function(*(tensor[cut] for tensor in tensors))
        results = results or tuple(part.new_empty(batch, part.shape[1], *space) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[cut] = part
    return results
