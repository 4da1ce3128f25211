"""Where a run starts, and what may have changed when it goes on: whatever does not affect training."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from farcluss.data.base import Item
from farcluss.data.splits import Splits
from farcluss.errors import RunError
from farcluss.recipes.model import Defaults, Recipe, Train
from farcluss.runs.checkpoints import Checkpoint, read, read_newest
from farcluss.runs.folder import RunFolder

# Sections and keys that change what is watched, where files lie or how fast it goes, not what is learned. The images
# themselves are compared instead of the keys that choose them, the number of steps instead of epochs.
HARMLESS = (
    "name",
    "data.root",
    "data.pack",
    "data.layout.cache",  # by convention the folder of a layout's own cache
    "data.labeled",
    "data.unlabeled",
    "data.val",
    "data.draw_seed",
    "data.allow_overlap",
    "data.palette",
    "data.workers",
    "data.on_error",
    "network.pretrained",
    "train.steps",
    "train.epochs",
    "train.scale_lr",
    "train.compile",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.trackers",
    "train.max_skipped",
    "eval",
)


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        newest: the newest checkpoint that was in the run directory, whole or not; None where there was none.
        checkpoint: what the run goes on from; None for a start from nothing.
        remarks: lines to be told.
        step: that of the checkpoint.
    """

    newest: Path | None
    checkpoint: Checkpoint | None = None
    remarks: tuple[str, ...] = ()
    step: int | None = None

    def begun(self) -> "Start":
        """The same without the checkpoint's tensors, which need not stay in memory."""
        return self._replace(checkpoint=None)


def find_start(
    folder: RunFolder, recipe: Recipe, resume: str | Path | None, marks: dict[str, Any], allow_changes: bool
) -> Start:
    """Find and read what a run goes on from.

    Args:
        folder: of the run.
        recipe: to be run.
        resume: see `farcluss.training.engine.train`.
        marks: the run's `fingerprint`.
        allow_changes: let differences from the checkpoint's fingerprint through.

    Raises:
        RunError: there is no whole checkpoint, it differs in what affects training, or another run is in the way.
    """
    there = folder.newest()
    if resume is None:
        return Start(there)
    if resume == "auto" and not folder.has_checkpoint():
        folder.refuse_other(recipe)
        return Start(there)
    newest = resume in ("auto", "newest")
    try:
        found = read_newest(folder.checkpoints) if newest else read(resume)
    except RunError as error:
        anew = "by --overwrite" if folder.exists() else "without --resume"
        advice = f"Start the run anew {anew}" if newest else "Give --resume alone, for the newest whole one"
        raise RunError(f"{error}\n{advice}.") from None
    if found.path.resolve().parent != folder.checkpoints.resolve():
        folder.refuse_existing(overwrite=False)  # the checkpoint of one run, the folder of another
    changes = refuse_changes(_defaults() | found.manifest.fingerprint, marks, allow_changes)
    return Start(there, found, (*found.remarks, *changes), found.manifest.step)


def fingerprint(recipe: Recipe, splits: Splits, steps: int, precision: str) -> dict[str, Any]:
    """Everything that affects training, by key path.

    Args:
        recipe: to be run.
        splits: its images.
        steps: of the whole training.
        precision: the mixed precision that is used, wherever it was configured.
    """
    images = {f"images of data.{name}": _digest(getattr(splits, name)) for name in ("labeled", "unlabeled")}
    known = {"train.lr": recipe.train.scaled_lr, "train.steps": steps, "train.mixed_precision": precision}
    return _marks(recipe) | known | images


def _marks(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that affect training, by key path."""
    table = _flat(recipe.model_dump(mode="json")).items()
    return {k: v for k, v in table if not any(k == name or k.startswith(f"{name}.") for name in HARMLESS)}


def _defaults() -> dict[str, Any]:
    """What keys mean that an older farcluss did not have: scalar ones of `data`, `loss` and `train`."""
    marks = _marks(Recipe(train=Train(steps=1)).with_defaults(Defaults()))
    return {key: value for key, value in marks.items() if key.startswith(("data.", "loss.", "train."))}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for all that differs between two fingerprints."""
    keys = dict.fromkeys([*old, *new])
    return [f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def refuse_changes(old: dict[str, Any], new: dict[str, Any], allow: bool) -> list[str]:
    """The differences, as lines to be told.

    Raises:
        RunError: there are some, and they are not allowed.
    """
    found = differences(old, new)
    if found and not allow:
        raise RunError(
            f"The recipe differs from the checkpoint's in what affects training: {'; '.join(found)}.\n"
            "Resume with the run's own recipe (RUN/recipe.toml), or let these changes through by --allow-changes."
        )
    return [f"changed since the checkpoint: {line}" for line in found]


def _flat(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{path}{key}.")
        else:
            rows[f"{path}{key}"] = value
    return rows


def _digest(items: Sequence[Item]) -> str:
    """Number of items and a checksum of their identifiers, in order."""
    text = "\n".join(item.id for item in items)
    return f"{len(items)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
