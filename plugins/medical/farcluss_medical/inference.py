"""Probabilities of whole volumes, with memory for one volume of probabilities, and classes on another grid."""

from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from farcluss.inference.card import Inference
from farcluss.inference.probs import Forward, argmax, running_mean
from farcluss.inference.weights import Model

SLAB = 16
"""Planes or slices per batch."""


def predict_volume(model: Model, image: NDArray[np.float32], slice_axis: int | None, mirror: bool) -> Tensor:
    """Probabilities `(classes, *S)` float32 of a preprocessed volume `(C, *S)`, on the CPU.

    Windows, their overlap and weights are those of the model's own inference settings.

    Args:
        model: network for volumes or for slices.
        image: the volume.
        slice_axis: axis along which the volume is sliced; None for a network for volumes.
        mirror: average over all flips of each window or slice.
    """
    model.network.eval()
    axes = image.ndim - 1 - (slice_axis is not None)
    if slice_axis is not None:
        return _by_slices(mirrored(model.batch_probs, axes if mirror else 0), image, slice_axis)
    settings = model.card.inference
    whole = model.with_inference(Inference(precision=settings.precision))
    forward = mirrored(whole.batch_probs, axes if mirror else 0)
    views = torch.from_numpy(np.ascontiguousarray(image))[None]
    if settings.window is None:
        return forward(views)[0].cpu()
    from monai.inferers import sliding_window_inference

    # Along short axes the window is the whole volume, as in evaluation during training; the network pads as needed.
    window = [min(side, extent) for side, extent in zip(settings.window, image.shape[1:], strict=True)]
    mode = "gaussian" if settings.blend == "gaussian" else "constant"
    with torch.no_grad():
        probs: Any = sliding_window_inference(
            views, window, 1, forward, overlap=1 - settings.stride, mode=mode, sw_device=model.device, device="cpu"
        )
    return torch.as_tensor(probs[0])


def _by_slices(forward: Forward, image: NDArray[np.float32], axis: int) -> Tensor:
    """Probabilities of a volume, slice by slice."""
    slices = np.moveaxis(image, axis + 1, 0)
    probs = None
    for start in range(0, len(slices), SLAB):
        part = forward(torch.from_numpy(np.ascontiguousarray(slices[start : start + SLAB]))).cpu()
        if probs is None:
            probs = part.new_empty(part.shape[1], len(slices), *part.shape[2:])
        probs[:, start : start + SLAB] = part.movedim(0, 1)
    assert probs is not None
    return probs.movedim(1, axis + 1)


def mirrored(forward: Forward, axes: int) -> Forward:
    """`forward` averaged over all flips along the last `axes` axes; itself for 0."""
    flips = list(chain.from_iterable(combinations(range(-axes, 0), count) for count in range(axes + 1)))

    def average(views: Tensor) -> Tensor:
        return running_mean(forward(views.flip(flip)).flip(flip) if flip else forward(views) for flip in flips)

    return average


def on_grid(probs: Tensor, size: tuple[int, ...]) -> Tensor:
    """Probabilities `(C, *S)` linearly interpolated on a grid of `size` voxels over the same extent."""
    if tuple(probs.shape[1:]) == size:
        return probs
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    return torch.cat([interpolate(probs[None, c : c + 1], size, mode=mode)[0] for c in range(len(probs))])


def classes_on_grid(probs: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Most probable class `(*S)` on another grid: probabilities are interpolated, not classes.

    One class is interpolated at a time, so that they are never all in memory on a fine grid.
    """
    if tuple(probs.shape[1:]) == size:
        slabs = (probs[:, start : start + SLAB] for start in range(0, size[0], SLAB))
        return torch.cat([argmax(slab[None])[0].to(torch.uint8) for slab in slabs]).numpy()
    best, classes = torch.full(size, -1.0), torch.zeros(size, dtype=torch.uint8)
    for index in range(len(probs)):
        found = on_grid(probs[index : index + 1], size)[0]
        classes[found > best] = index
        torch.maximum(best, found, out=best)
    return classes.numpy()
