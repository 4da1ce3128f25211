"""Mixing images: random regions in any number of dimensions, and the images that they are filled from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from farcluss.stages.base import View
from farcluss.tensors.draws import common_draws, flip_rows, roll_rows, rows

Law = Literal["log-uniform", "uniform", "half", "beta"]
"""See `Boxes`."""
Partner = Literal["previous", "reverse", "random"]
"""See `partners`."""
TRIES = 64
"""Boxes drawn for a sample, of which the first that fits is taken."""
Edges = tuple[Tensor, Tensor]
"""First and last edge `(B, axes)` of boxes, as shares of the image."""


@dataclass(frozen=True)
class Boxes:
    """A law of random boxes. Sides and places are shares of the image, so that 1 is a whole side.

    Attributes:
        p: chance of a box; else it is empty.
        law: how boxes are drawn. `log-uniform`: the covered share uniformly from `area`; the aspect, first side over
            each other one, log-uniformly from that part of `aspect` with which the box fits; the place uniformly inside
            the image. `uniform`, as in UniMatch: the share uniformly; then aspect and corner uniformly from all of
            `aspect` and of the image, both again until the box fits, which favors compact boxes. `half`, as in U2PL:
            half of the image, with a last side drawn uniformly from one half to 1. `beta`, as in AugSeg: a share of
            1 - lambda, lambda drawn from Beta(`beta`) once for the batch; equal sides, and a center anywhere: the box
            is cut at the border.
        area: range of the share of the image.
        aspect: range of the aspect ratio.
        beta: parameters of `beta`.
        count: boxes per image; of several, pixels in an odd number of them count.
    """

    p: float = 1.0
    law: Law = "log-uniform"
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 3.3)
    beta: tuple[float, float] = (1.0, 1.0)
    count: int = 1

    def draw(self, batch: int, size: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Regions `(B, *S)` bool of this process's samples, True inside; see `farcluss.tensors.draws`."""
        total, mine = rows(batch)
        region = torch.zeros(batch, *size, dtype=torch.bool, device=device)
        with common_draws():
            wanted = torch.rand(total, device=device) < self.p
            boxes = [self.edges(total, len(size), torch.device(device)) for _ in range(self.count)]
        for first, last in boxes:
            region = region ^ inside(first[mine], last[mine], size)
        return region & wanted[mine].view(-1, *[1] * len(size))

    def edges(self, total: int, axes: int, device: torch.device) -> Edges:
        """Edges of `total` boxes, one for each sample of the whole batch."""
        if self.law == "half":
            return _half(total, axes, device)
        if self.law == "beta":
            return _beta(total, axes, self.beta, device)
        return _free(total, axes, self.area, self.aspect, self.law == "uniform", device)


def inside(first: Tensor, last: Tensor, size: tuple[int, ...]) -> Tensor:
    """Boxes as `(B, *S)` bool, of one pixel at least; edges `(B, axes)` are rounded to pixels."""
    axes = len(size)
    region = torch.ones((), dtype=torch.bool, device=first.device)
    for axis, pixels in enumerate(size):
        begin = (first[:, axis] * pixels).round().clamp(max=pixels - 1)
        end = torch.maximum((last[:, axis] * pixels).round(), begin + 1)
        begin, end = (edge.view(-1, *[1] * axes) for edge in (begin, end))
        place = torch.arange(pixels, device=first.device).view(-1, *[1] * (axes - 1 - axis))
        region = region & (place >= begin) & (place < end)
    return region


def _free(
    total: int, axes: int, area: tuple[float, float], aspect: tuple[float, float], anywhere: bool, device: torch.device
) -> Edges:
    """The laws `log-uniform` and, with `anywhere`, `uniform`."""
    share = torch.empty(total, 1, 1, device=device).uniform_(*area)
    ratio = torch.empty(total, TRIES, axes - 1, device=device)
    if anywhere:
        ratio = ratio.uniform_(*aspect).log()
    else:
        low, high = torch.tensor(aspect, dtype=torch.float64).log().tolist()
        ratio.uniform_(low, high)
    stretch = torch.cat([ratio.new_zeros(total, TRIES, 1), -ratio], 2)
    sides = (share.log() / axes + stretch - stretch.mean(2, keepdim=True)).exp()
    room = (1 - sides).clamp(min=0)
    first = torch.rand(total, TRIES, axes, device=device) * (1 if anywhere else room)
    small, fits = (sides <= 1).all(2).byte(), ((sides <= 1) & (first <= room)).all(2).byte()
    # The first that fits; of none, the first that fits elsewhere, or else the very first, cut at the border.
    chosen = (small + fits).argmax(1).view(-1, 1, 1).expand(-1, 1, axes)
    first, sides, room = (each.gather(1, chosen)[:, 0] for each in (first, sides, room))
    first = torch.minimum(first, room)
    return first, (first + sides).clamp(max=1)


def _half(total: int, axes: int, device: torch.device) -> Edges:
    """The law `half`."""
    if axes == 1:
        sides = torch.full((total, 1), 0.5, device=device)
    else:
        last = torch.empty(total, 1, device=device).uniform_(0.5, 1.0)
        sides = torch.cat([((0.5 / last) ** (1 / (axes - 1))).expand(-1, axes - 1), last], 1)
    first = torch.rand(total, axes, device=device) * (1 - sides)
    return first, first + sides


def _beta(total: int, axes: int, parameters: tuple[float, float], device: torch.device) -> Edges:
    """The law `beta`."""
    # On the CPU: the distribution reads its parameters, which would be a host sync.
    share = 1 - float(torch.distributions.Beta(*parameters).sample())
    return placed(total, axes, share ** (1 / axes), device)


def placed(total: int, axes: int, side: float, device: torch.device) -> Edges:
    """Edges of `total` boxes with equal sides around centers anywhere in the image; cut at its border."""
    center = torch.rand(total, axes, device=device)
    return (center - side / 2).clamp(min=0), (center + side / 2).clamp(max=1)


def partners(rule: Partner, batch: int) -> Callable[[Tensor], Tensor]:
    """The function that gives each row of `(B, ...)` that of its partner, in the batch of all processes.

    `previous`: the row before. `reverse`: the batch backwards. `random`: a number of rows before that is drawn for the
    batch, never 0; so partners differ from step to step, and each image serves once.
    """
    if rule == "previous":
        return roll_rows
    if rule == "reverse":
        return flip_rows
    total, _ = rows(batch)
    with common_draws():
        by = 1 + int(torch.randint(max(1, total - 1), (), device="cpu"))
    return lambda tensor: roll_rows(tensor, by)


def mix(view: View, other: View, region: Tensor) -> View:
    """A view with `region` `(B, *S)` bool filled from another one: pixels and labels alike."""
    inside = region.unsqueeze(1)
    images = torch.where(inside, other.images, view.images)
    labels = view.labels.combine(
        other.labels, lambda mine, theirs: torch.where(region if mine.dim() == region.dim() else inside, theirs, mine)
    )
    return view._replace(images=images, labels=labels)
