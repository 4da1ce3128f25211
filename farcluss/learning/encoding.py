"""Maps of a frozen encoder: of equal images in a step they are computed once."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

Maps = tuple[Tensor, ...]


class Encoding:
    """What a frozen encoder, the same in student and teacher, makes of the images of a step.

    Images are equal where they lie in the same place of memory, which is known without a look at their values.
    """

    def __init__(self, network: nn.Module, compiled: Callable[[Any], Any]) -> None:
        """A network whose encoder is frozen says so (`frozen`), and offers `encode`; of others nothing is kept."""
        frozen = getattr(network, "frozen", False)
        self._encode: Callable[[Tensor], Maps] | None = compiled(cast(Any, network).encode) if frozen else None
        self._known: dict[tuple[Any, ...], tuple[Tensor, Maps]] = {}

    def forget(self) -> None:
        """Begin a step, or end one: the maps would take memory until the next."""
        self._known.clear()

    @torch.no_grad()
    def maps(self, groups: Sequence[Tensor], normalize: Callable[[Tensor], Tensor]) -> Maps | None:
        """Maps of all images of some groups, each `(B, Cin, *S)`; None where the encoder learns."""
        if self._encode is None:
            return None
        found = []
        for images in groups:
            key = images.data_ptr(), images.shape, images.stride(), images._version
            if key not in self._known:
                # The images are kept, too: else others could come to lie in their place.
                self._known[key] = images, self._encode(normalize(images))
            found.append(self._known[key][1])
        return tuple(joined(parts) for parts in zip(*found, strict=True))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors behind one another; a single one as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
