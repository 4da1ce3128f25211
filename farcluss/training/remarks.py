"""What is odd about a run without being an error, known before it starts: shown by `check` and by `run`."""

from collections.abc import Callable, Sequence

from torch import nn

from farcluss.data.accounting import Account
from farcluss.data.base import account_of, defaults_of
from farcluss.data.splits import Splits
from farcluss.learning.build import Parts, pretrained_facts


def remarks(parts: Parts) -> list[str]:
    """Warnings about the settings of a recipe, and about files that it does not use."""
    recipe, steps = parts.recipe, parts.steps()
    found = account(parts).lines()
    if recipe.semi_supervised and recipe.loss.warmup_steps >= steps:
        found.append(
            f"loss.warmup_steps = {recipe.loss.warmup_steps} of {steps} steps: the unlabeled images are never used. "
            "Lower it, or raise train.steps."
        )
    if recipe.train.lr_warmup_steps >= steps:
        found.append(
            f"train.lr_warmup_steps = {recipe.train.lr_warmup_steps} of {steps} steps: the learning rate never reaches "
            "train.lr. Lower it, or raise train.steps."
        )
    return [*found, *statistics(parts)]


def statistics(parts: Parts) -> list[str]:
    """A warning if images are normalized by other numbers than those of the pretrained weights."""
    facts, data = pretrained_facts(parts.recipe.network), parts.recipe.data
    pictures = data.channel_count == 3 and defaults_of(parts.dataset).value_range == (0.0, 1.0)
    if facts is None or not pictures or [data.channel_mean, data.channel_std] == [facts.mean, facts.std]:
        return []
    given = f"data.mean = {data.channel_mean}, data.std = {data.channel_std}"
    return [f"{given}, unlike {facts.summary()}."]


def patches(network: nn.Module, crop: Sequence[int]) -> list[str]:
    """A warning if crops are no whole patches of a vision transformer."""
    patch: int | None = getattr(network, "patch", None)
    if patch is None or not any(side % patch for side in crop):
        return []
    below, above = ([max(1, side // patch + up) * patch for side in crop] for up in (0, 1))
    sides = " or ".join(dict.fromkeys(str(each[0] if len({*crop}) == 1 else each) for each in (below, above)))
    return [f"data.crop is no multiple of the encoder's patch of {patch} pixels: crops are fitted. Take {sides}."]


def risks(parts: Parts) -> list[str]:
    """What `check` would refuse of a data set and a run does not, as far as it is known without much reading."""
    look: Callable[[Splits], list[str]] = getattr(parts.dataset, "risks", lambda _: [])
    return [f"{text} (`farcluss check` refuses this.)" for text in look(parts.splits)]


def account(parts: Parts) -> Account:
    """What of its folders a recipe does not use."""
    splits = parts.splits
    return account_of(parts.dataset, [*splits.labeled, *splits.unlabeled, *splits.val])
