"""Images and labels that say where each of their pixels comes from."""

import numpy as np
import torch

from farcluss.stages.base import PseudoLabels, Scene, View


def labels(batch: int, size: tuple[int, ...]) -> PseudoLabels:
    """Labels whose confidence numbers the pixels of the whole batch; the class is the number modulo 7."""
    numbers = torch.arange(batch * int(np.prod(size))).view(batch, *size)
    values = torch.ones(batch, 1, *size)
    return PseudoLabels(values, numbers.unsqueeze(1) % 7, numbers.float(), values[:, 0] * 0.5, numbers >= 0)


def images(batch: int, size: tuple[int, ...], channels: int = 3) -> torch.Tensor:
    """Images whose channels are the pixel's number in the batch, in [0, 1]."""
    numbers = torch.arange(batch * int(np.prod(size))).view(batch, 1, *size)
    return (numbers / numbers.max()).expand(-1, channels, *[-1] * len(size)).clone()


def scene(weak: torch.Tensor, known: PseudoLabels) -> Scene:
    """A scene of weak images with labels; its labeled images are all of class 0 and value 0."""
    masks = torch.zeros(known.valid.shape, dtype=torch.uint8)
    return Scene(View(weak, known), torch.zeros(weak.shape), masks, masks == 0, 7)
