"""Sums over all processes, usable with and without a process group."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def count_dtype(device: torch.device) -> torch.dtype:
    """What pixels are counted in: float64, which is exact; float32 on MPS, which has no float64."""
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


def sum_tables(tables: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Entry-wise sum of tables of tensors over the list and over all processes, in one reduction."""
    keys = list(tables[0])
    dtype = count_dtype(tables[0][keys[0]].device)
    flat = torch.stack([torch.cat([table[key].to(dtype).flatten() for key in keys]) for table in tables]).sum(0)
    parts = torch.split(all_sum(flat), [tables[0][key].numel() for key in keys])
    return {key: part.view(tables[0][key].shape) for key, part in zip(keys, parts, strict=True)}
