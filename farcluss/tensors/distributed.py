"""Sums over all processes, and results of the main process for all; with or without a process group."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from farcluss.errors import FarclussError

T = TypeVar("T")


def world_size() -> int:
    """Number of training processes (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def count_dtype(device: torch.device) -> torch.dtype:
    """The dtype of pixel counts: float64, which is exact; float32 on MPS, which lacks float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class _AllSum(torch.autograd.Function):
    """Sum over ranks whose backward also sums, so that every rank gets its part of the global gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def all_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over all processes; differentiable. Every process must call it."""
    if world_size() == 1:
        return tensor
    result: Tensor = _AllSum.apply(tensor)
    return result


def sum_table(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entry-wise sum of a table of tensors over all processes, in one reduction."""
    dtype = count_dtype(next(iter(table.values())).device)
    flat = all_sum(torch.cat([value.to(dtype).flatten() for value in table.values()]))
    parts = torch.split(flat, [value.numel() for value in table.values()])
    return {key: part.view(table[key].shape) for key, part in zip(table, parts, strict=True)}


def on_main(function: Callable[[], T]) -> T:
    """Call `function` on the main process and broadcast its result. Every process must call it.

    Raises:
        FarclussError, OSError: raised on the main process; raised again on all.
    """
    box: list[Any] = [None, None]
    if world_size() == 1 or dist.get_rank() == 0:
        try:
            box[0] = function()
        except (FarclussError, OSError) as error:
            box[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    result: T = box[0]
    return result


def gather_on_main(value: T) -> list[T]:
    """The values of all processes on the main one, an empty list on the others. Every process must call it."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    main = dist.get_rank() == 0
    dist.gather_object(value, gathered if main else None)
    return gathered if main else []
