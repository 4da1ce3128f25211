"""Labels for the pixels of an embedding map, which the contrastive loss pulls together and apart."""

import torch
from torch import Tensor

from farcluss.data.base import IGNORE
from farcluss.stages.base import Anchors, PseudoLabels


def anchors_of(masks: Tensor, labels: list[PseudoLabels], weights: list[Tensor], size: tuple[int, ...]) -> Anchors:
    """Anchors of labeled images, then of strong views, resized by nearest neighbor.

    Args:
        masks: `(B, *S)` uint8, of the labeled images.
        labels: of each strong view.
        weights: `(B, *S)`, of their pixels.
        size: of the embedding map.
    """
    masks = nearest(masks, size)
    known = masks != IGNORE
    ones = known.float()
    true = Anchors(torch.where(known, masks, 0).long(), ones, ones, known, torch.ones_like(known))
    pseudo = []
    for each, full in zip(labels, weights, strict=True):
        fields = each.classes[:, 0], each.confidence, full, each.valid
        classes, confidence, weight, valid = (nearest(field, size) for field in fields)
        pseudo.append(Anchors(classes, confidence, weight, valid, torch.zeros_like(valid)))
    return Anchors(*(torch.cat(tensors) for tensors in zip(true, *pseudo, strict=True)))


def nearest(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """`tensor` `(B, *S)` of any dtype at spatial `size`, by the nearest pixel center."""
    for axis, (new, old) in enumerate(zip(size, tensor.shape[1:], strict=True), 1):
        centers = (torch.arange(new, device=tensor.device) + 0.5) * (old / new)
        tensor = tensor.index_select(axis, centers.long())
    return tensor
