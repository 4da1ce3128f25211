"""How unsure probabilities are."""

import math

from torch import Tensor

from farcluss.tensors.chunks import by_chunks
from farcluss.tensors.precision import safe_log


def normalized_entropy(probs: Tensor) -> Tensor:
    """`H = -sum_c p_c log p_c / log C` (eq. 5), in [0, 1], with `0 log 0 = 0`.

    Args:
        probs: `(B, C, *S)` over all C classes, C >= 2.

    Returns:
        `(B, *S)`.
    """
    (information,) = by_chunks(lambda chunk: ((chunk * safe_log(chunk)).sum(1, keepdim=True),), probs)
    return (-information[:, 0] / math.log(probs.shape[1])).clamp(0, 1)
