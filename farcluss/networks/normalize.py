"""Normalization of images for networks."""

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """`(images - mean) / std` per channel, for `(B, Cin, *S)` in the range of mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images, in the memory format of the networks, see `farcluss.inference.weights.build_network`."""
        shape = (1, -1, *[1] * (images.dim() - 2))
        normalized = (images - self.mean.view(shape)) / self.std.view(shape)
        return normalized.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else normalized
