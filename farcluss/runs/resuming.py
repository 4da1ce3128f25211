"""Resuming: the checkpoint to start from, and the changes to the recipe that are allowed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from farcluss.data.base import Item
from farcluss.data.splits import Splits
from farcluss.errors import RunError
from farcluss.recipes.model import Defaults, Recipe, flat
from farcluss.recipes.training import Train
from farcluss.runs.checkpoints import Checkpoint, read, read_newest
from farcluss.runs.folder import RunFolder
from farcluss.runs.outputs import real

SPEED_OR_LOG = (
    "name",
    "data.root",
    "data.pack",
    "data.layout.cache",  # by convention the cache folder of a layout
    "data.palette",
    "data.workers",
    "train.compile",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.trackers",
)
"""Keys that affect logging, paths or speed, but no result."""
# Instead of the keys that choose images, the images themselves are compared; instead of epochs, the number of steps.
HARMLESS = (
    *SPEED_OR_LOG,
    "data.labeled",
    "data.unlabeled",
    "data.val",
    "data.draw_seed",
    "data.allow_overlap",
    "data.channel_names",
    "data.on_error",
    "network.pretrained",
    "network.pretrained_bands",
    "train.steps",
    "train.epochs",
    "train.scale_lr",
    "train.max_skipped",
    "eval",
)


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        newest: the newest checkpoint in the run directory, intact or not; None if there was none.
        checkpoint: the checkpoint to resume from; None for a new run.
        notes: messages for the user.
        step: step of the checkpoint.
    """

    newest: Path | None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    step: int | None = None

    def without_tensors(self) -> "Start":
        """The same without the checkpoint, whose tensors would stay in memory."""
        return self._replace(checkpoint=None)


def find_start(
    folder: RunFolder, recipe: Recipe, resume: str | Path | None, expected: dict[str, Any], allow_changes: bool
) -> Start:
    """Find and read the checkpoint to resume from.

    Args:
        folder: the run directory.
        recipe: the recipe.
        resume: see `farcluss.training.engine.train`.
        expected: the run's `fingerprint`.
        allow_changes: accept differences from the checkpoint's fingerprint.

    Raises:
        RunError: there is no intact checkpoint, its fingerprint differs, or the folder holds another run.
    """
    present = folder.newest()
    if resume is None:
        return Start(present)
    if resume == "auto" and not folder.has_checkpoint():
        folder.refuse_other(recipe)
        return Start(present)
    newest = resume in ("auto", "newest")
    try:
        found = read_newest(folder.checkpoints) if newest else read(resume)
    except RunError as error:
        option = "with --overwrite" if folder.exists() else "without --resume"
        advice = f"Start over {option}" if newest else "Give --resume alone, for the newest intact one"
        raise RunError(f"{error}\n{advice}.") from None
    if real(found.path).parent != real(folder.checkpoints):
        folder.refuse_existing(overwrite=False)  # a checkpoint of another run starts a new one
    changes = refuse_changes(_defaults() | found.manifest.fingerprint, expected, allow_changes)
    return Start(present, found, (*found.notes, *changes), found.manifest.step)


def fingerprint(recipe: Recipe, splits: Splits, steps: int, precision: str) -> dict[str, Any]:
    """Everything that affects training, by key path.

    Args:
        recipe: the recipe.
        splits: its images.
        steps: number of training steps.
        precision: the mixed precision in use, wherever it was configured.
    """
    images = {f"images of data.{name}": _digest(getattr(splits, name)) for name in ("labeled", "unlabeled")}
    known = {"train.lr": recipe.train.scaled_lr, "train.steps": steps, "train.mixed_precision": precision}
    return _training_keys(recipe) | known | images


def _training_keys(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that affect training, by key path."""
    return {
        k: v for k, v in flat(recipe).items() if not any(k == name or k.startswith(f"{name}.") for name in HARMLESS)
    }


def _defaults() -> dict[str, Any]:
    """Values for keys that an older checkpoint lacks: the defaults of `data`, `loss` and `train`."""
    defaults = _training_keys(Recipe(train=Train(steps=1)).with_defaults(Defaults()))
    return {key: value for key, value in defaults.items() if key.startswith(("data.", "loss.", "train."))}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for every difference between two fingerprints."""
    keys = dict.fromkeys([*old, *new])
    return [f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def refuse_changes(old: dict[str, Any], new: dict[str, Any], allow: bool) -> list[str]:
    """The differences, as messages for the user.

    Raises:
        RunError: there are differences, and they are not allowed.
    """
    found = differences(old, new)
    if found and not allow:
        raise RunError(
            f"The recipe differs from the checkpoint's in what affects training: {'; '.join(found)}.\n"
            "Resume with the run's own recipe (RUN/recipe.toml), or accept these changes with --allow-changes."
        )
    return [f"changed since the checkpoint: {line}" for line in found]


def _digest(items: Sequence[Item]) -> str:
    """Number of items and a checksum of their identifiers, in order."""
    text = "\n".join(item.id for item in items)
    return f"{len(items)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
