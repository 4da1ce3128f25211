"""The EMA of the mean teacher, and buffers joined so that they are copied and restored at once."""

import torch
from torch import Tensor, nn


def ema_decay(step: int, decay: float, ramp: bool = True) -> float:
    """Decay of the teacher at a step from 0 on (eq. 1): `min(decay, 1 - 1 / (step + 1))`, or `decay` without `ramp`."""
    return min(decay, 1 - 1 / (step + 1)) if ramp else decay


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, rate: float | Tensor) -> None:
    """`theta_t <- theta_t + rate (theta_s - theta_t)` (eq. 1, rate = 1 - decay) for parameters and float buffers.

    Parameters that do not learn, and are the same in both, are left out. Integer buffers are copied.
    `rate` may be a scalar tensor, which needs no host sync; 0 keeps the averages.
    """
    learned = [pair for pair in zip(teacher.parameters(), student.parameters(), strict=True) if pair[1].requires_grad]
    averaged: list[tuple[Tensor, Tensor]] = []
    copied: list[tuple[Tensor, Tensor]] = []
    for pair in [*learned, *zip(teacher.buffers(), student.buffers(), strict=True)]:
        (averaged if pair[0].is_floating_point() else copied).append(pair)
    old = [t for t, _ in averaged]
    gaps = torch._foreach_sub([s for _, s in averaged], old)
    torch._foreach_mul_(gaps, rate)
    torch._foreach_add_(old, gaps)
    for past, new in copied:
        past.copy_(new)


def join_buffers(network: nn.Module) -> list[Tensor]:
    """Make all buffers of a network's batch norms views of one tensor per dtype, which is copied and restored at once.

    Others stay apart. Views share a version counter, so a norm that counts its batches would seem to change what
    autograd has saved for the backward, such as the index of relative positions in a Swin transformer.

    Returns:
        The joined tensors, flat, and all other buffers.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    owners = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    joined = []
    for dtype in sorted({buffer.dtype for _, _, buffer in owners}, key=str):
        members = [owner for owner in owners if owner[2].dtype == dtype]
        flat = torch.cat([buffer.detach().flatten() for _, _, buffer in members])
        parts = torch.split(flat, [buffer.numel() for _, _, buffer in members])
        for (module, name, buffer), part in zip(members, parts, strict=True):
            setattr(module, name, part.view(buffer.shape))
        joined.append(flat)
    others = [module for module in network.modules() if module not in norms]
    return joined + [buffer for module in others for buffer in module.buffers(recurse=False)]
