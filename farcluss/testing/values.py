"""Inputs for the testers of `farcluss.testing`, and checks with messages for plugin authors."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from farcluss.stages.base import PseudoLabels

SIZES = {2: (6, 8), 3: (4, 6, 8)}
"""Spatial size to test with, by number of axes."""


def random_probs(batch: int, classes: int, *size: int) -> Tensor:
    """Teacher probabilities `(B, C, *S)`, from certain to uncertain; needs a seeded generator."""
    sharpness = torch.linspace(0, 4, size[-1])
    return (torch.randn(batch, classes, *size) * sharpness).softmax(1)


def random_labels(batch: int, classes: int, *size: int, kept: int = 3) -> PseudoLabels:
    """Pseudo-labels as the built-in stages make them, a fifth of the pixels invalid; needs a seeded generator."""
    top = random_probs(batch, classes, *size).topk(min(kept, classes), 1)
    values = top.values / top.values.sum(1, keepdim=True)
    shape = (batch, *size)
    return PseudoLabels(values, top.indices, top.values[:, 0], torch.rand(shape), torch.rand(shape) < 0.8)


def hard_cases(classes: int) -> dict[str, Tensor]:
    """Edge cases of probabilities `(1, C, 2, 2)`: certain with exact zeros, tied, uniform."""
    certain = torch.zeros(1, classes, 2, 2)
    certain[:, -1] = 1
    tied = torch.zeros(1, classes, 2, 2)
    tied[:, :2] = 0.5
    return {"certain": certain, "tied": tied, "uniform": torch.full((1, classes, 2, 2), 1 / classes)}


def shuffle_invalid(labels: PseudoLabels, classes: int) -> PseudoLabels:
    """`labels` with other values at invalid pixels."""
    other = random_labels(len(labels.valid), classes, *labels.valid.shape[1:], kept=labels.values.shape[1])

    def pick(mine: Tensor, others: Tensor) -> Tensor:
        return torch.where(
            labels.valid if mine.dim() == labels.valid.dim() else labels.valid.unsqueeze(1), mine, others
        )

    kept = {
        name: pick(getattr(labels, name), getattr(other, name))
        for name in ("values", "classes", "confidence", "entropy")
    }
    return replace(labels, **kept)


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in a tensor, tuple, mapping or dataclass, in order."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_of(part)] if isinstance(value, list | tuple) else []


def as_volume(value: Any) -> Any:
    """`value` with every tensor `(B, [C,] H, W)` as `(B, [C,] 1, H, W)`."""
    if isinstance(value, Tensor):
        return value.unsqueeze(-3)
    if isinstance(value, PseudoLabels):
        return value.map(as_volume)
    if isinstance(value, tuple):
        parts = [as_volume(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def seeded(function: Callable[..., Any], *arguments: Any, seed: int = 0) -> Any:
    """Call `function` with torch's generator seeded, and restore its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(*arguments)


def expect_like(name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Check type, shape, dtype and finiteness of a tensor."""
    assert isinstance(tensor, Tensor), f"{name} is a {type(tensor).__name__}, not a tensor"
    assert tuple(tensor.shape) == shape, f"{name} has shape {tuple(tensor.shape)}, not {shape}"
    assert tensor.dtype == dtype, f"{name} is {tensor.dtype}, not {dtype}"
    assert tensor.isfinite().all(), f"{name} is not finite everywhere"


def expect_between(name: str, tensor: Tensor, low: float, high: float) -> None:
    """Check the range of a tensor, up to rounding."""
    found = (float(tensor.min()), float(tensor.max()))
    assert low - 1e-5 <= found[0] and found[1] <= high + 1e-5, f"{name} lies in {found}, not in [{low}, {high}]"


def expect_same(name: str, found: Any, wanted: Any) -> None:
    """Check that two results hold equal tensors, up to rounding."""
    pairs = list(zip(tensors_of(found), tensors_of(wanted), strict=True))
    assert all(a.shape == b.shape for a, b in pairs), f"{name}: shapes differ"
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs), f"{name}: values differ"
