"""Plain warnings during training: what the logged figures say of how it goes, each once, with a remedy."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from farcluss.data.loader import HostBatch
from farcluss.errors import some
from farcluss.recipes.model import Recipe

RECENT = 5
"""Logged steps in a row that must agree."""
BEHIND = 0.02
"""mIoU by which the teacher may stay behind the student."""
NOTHING, ALL = 0.02, 0.98
"""Mean weights of pixels that mean nothing, or everything, counts."""
GONE = 1e-4
"""Share of the pseudo-labels below which a class has vanished."""
COLLAPSED = 0.95
"""Mean cosine between prototypes that cannot be told apart."""
MIXED = 0.5
"""Share of the pixels by which the classes of pseudo-labels and labels may differ."""
UNLIKE, LOOKED_AT = 2.0, 50
"""Standard deviations of image means by which unlabeled images may differ; steps whose images are compared."""


@dataclass
class Advisor:
    """Watches a run.

    Attributes:
        recipe: of the run.
        classes: names.
        recent: figures of the last logged steps.
        behind: evaluations in a row in which the teacher was behind.
        told: keys of warnings that were given.
        labeled: pixels of each class in the first labeled crops.
        means: of the channels of each labeled and each unlabeled image of the first steps.
        looked: steps whose images were looked at.
    """

    recipe: Recipe
    classes: Sequence[str]
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    behind: int = 0
    told: set[str] = field(default_factory=set)
    labeled: Tensor | None = None
    means: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    looked: int = 0

    def look(self, host: HostBatch) -> list[str]:
        """Look at the images and masks of the first steps; warnings where the two kinds of images are unlike."""
        unlabeled = len(host.images) - host.labeled
        if host.error:
            return []
        if self.looked >= LOOKED_AT or not (unlabeled or self.looked < LOOKED_AT // 2):
            return []
        counts = torch.bincount(host.masks[: host.labeled].flatten(), minlength=256)[: len(self.classes)]
        self.labeled = counts if self.labeled is None else self.labeled + counts
        means = host.images.flatten(2).float().mean(2)
        self.means[0].extend(means[: host.labeled])
        self.means[1].extend(means[host.labeled :])
        self.looked += 1
        return self._once(_unlike(*self.means)) if self.looked == LOOKED_AT and self.means[1] else []

    def logged(self, step: int, values: Mapping[str, Any]) -> list[str]:
        """Warnings that the figures of a logged step, and of those before it, give reason for."""
        if "histogram" not in values:
            return []
        self.recent.append(dict(values))
        late = step > self.recipe.loss.warmup_steps + self.recipe.loss.ramp_steps
        if len(self.recent) < RECENT or not late:
            return []
        found = {**self._weights(), **self._vanished(), **self._mix(), **self._collapse()}
        return self._once(found)

    def scored(self, scores: Mapping[str, float]) -> list[str]:
        """Warnings that an evaluation gives reason for, by mIoU of teacher and student."""
        gap = scores.get("student_miou", 0) - scores.get("teacher_miou", 0)
        self.behind = self.behind + 1 if gap > BEHIND else 0
        ema = self.recipe.train.ema
        if self.behind < 2 or not ema:
            return []
        return self._once({
            "behind": f"the teacher has been {100 * gap:.1f} points of mIoU below the student in the last two "
            f"evaluations: its average reaches {1 / (1 - ema):,.0f} steps back. Lower train.ema, or train longer."
        })  # fmt: skip

    def _once(self, found: Mapping[str, str]) -> list[str]:
        new = [text for key, text in found.items() if key not in self.told]
        self.told |= found.keys()
        return new

    def _all(self, key: str) -> list[Any]:
        """A figure of the recent steps; empty where one lacks it."""
        values = [each.get(key) for each in self.recent]
        return [] if None in values else values

    def _weights(self) -> dict[str, str]:
        weights, classes = self._all("mean_weight"), self._all("class_weights")
        found = {}
        if weights and max(weights) < NOTHING:
            found["nothing"] = (
                f"unlabeled pixels count {100 * weights[-1]:.1f} % on average: hardly anything is learned from them. "
                "Warm up longer (loss.warmup_steps), or lower the threshold of stages.weight."
            )
        if weights and min(weights) > ALL:
            found["everything"] = (
                f"unlabeled pixels count {100 * weights[-1]:.1f} % on average: stages.weight leaves out nothing, "
                "errors count as well. That is fine late in a training; early, warm up longer (loss.warmup_steps)."
            )
        if classes and all(self._all("bounded_classes") or [0]):
            name = self.classes[max(range(len(self.classes)), key=lambda index: classes[-1][index])]
            found["bound"] = (
                f"class weights are at their bound, that of {name} first: few pixels that are labeled so, often "
                'wrongly, count most. Lower stages.rebalance.max_weight, or set stages.rebalance = "uniform".'
            )
        return found

    def _vanished(self) -> dict[str, str]:
        shares = torch.tensor(self._all("histogram")).amax(0).tolist()
        known = self.labeled.tolist() if self.labeled is not None else [0] * len(self.classes)
        gone = [name for name, share, count in zip(self.classes, shares, known, strict=True) if count and share < GONE]
        return {
            "gone": f"no pseudo-label is {some(gone)} any more, though labels are: unlabeled images unlearn it. "
            "Warm up longer (loss.warmup_steps), or label more of it."
        } if gone else {}  # fmt: skip

    def _mix(self) -> dict[str, str]:
        if self.labeled is None or not self.labeled.sum():
            return {}
        own = self.labeled / self.labeled.sum()
        pseudo = torch.tensor(self._all("histogram")).mean(0)
        gaps = pseudo - own
        if gaps.abs().sum() / 2 < MIXED:
            return {}
        index = int(gaps.abs().argmax())
        return {
            "mix": f"the pseudo-labels have another mix of classes than the labels: {self.classes[index]} is "
            f"{100 * pseudo[index]:.0f} % of them, {100 * own[index]:.0f} % of the labels. If the unlabeled images do "
            "not differ as much, the teacher errs: label more images, or warm up longer."
        }

    def _collapse(self) -> dict[str, str]:
        cosines = self._all("prototype_cosine")
        if not cosines or min(cosines) < COLLAPSED or not self.recipe.loss.contrastive:
            return {}
        return {
            "collapse": f"the prototypes of the classes point one way (mean cosine {cosines[-1]:.2f}): the contrast "
            "tells nothing apart. Lower loss.contrastive, or raise stages.contrast.repulsion."
        }


def _unlike(labeled: Iterable[Tensor], unlabeled: Iterable[Tensor]) -> dict[str, str]:
    """A warning where a channel's mean differs between the two kinds of images by more than images among themselves."""
    one, other = (torch.stack(list(each)) for each in (labeled, unlabeled))
    spread = torch.cat([one - one.mean(0), other - other.mean(0)]).std(0)
    gaps = (one.mean(0) - other.mean(0)).abs() / spread.clamp(min=1e-6)
    channel = int(gaps.argmax())
    if gaps[channel] < UNLIKE:
        return {}
    means = f"{other[:, channel].mean():.3g} on average, {one[:, channel].mean():.3g} in labeled ones"
    return {
        "unlike": f"the unlabeled images look unlike the labeled ones: channel {channel} is {means} "
        f"({gaps[channel]:.1f} standard deviations of images). Label some of these images, or leave those of another "
        "kind out."
    }
