"""Evaluating a weights file on a data set, by the recipe that the file contains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Dataset, Item
from farcluss.data.labels import no_labels
from farcluss.data.splits import resolve_val
from farcluss.errors import DataError, RecipeError, failure
from farcluss.inference.calibration import Calibration, calibrate
from farcluss.inference.card import inference_of
from farcluss.inference.evaluation import Scores, evaluate
from farcluss.inference.per_image import PerImage
from farcluss.inference.weights import Model, load
from farcluss.learning.build import build_dataset, crop_sides
from farcluss.recipes.model import Recipe
from farcluss.recipes.reading import validate
from farcluss.runs.folder import listed

USED = {
    "data": {"layout", "root", "pack", "val", "draw_seed", "classes", "ignore_index", "reduce_zero_label", "channels",
             "crop", "on_error"},
    "eval": {"mode", "window", "stride", "blend", "precision", "flip", "scales"},
}  # fmt: skip
"""Keys that scores depend on. The others are for training, or those of the weights count."""
OF_WINDOWS = ("window", "stride", "blend")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a weights file.

    Attributes:
        scores: over all images that do not fail.
        images: number of images that were to be scored.
        failed: images that could not be read or predicted, and why; in any order.
        per_image: counts of each image that is scored, if they were asked for.
        calibration: of the probabilities, if it was asked for.
        known: number of images that the run of the weights was trained on.
    """

    scores: Scores
    images: int
    failed: Sequence[tuple[str, BaseException]]
    per_image: PerImage | None = None
    calibration: Calibration | None = None
    known: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values: the scores, how many images they are of, and the images that failed."""
        failed = [{"image": image, "error": failure(image, error)} for image, error in self.failed]
        facts = {**self.scores.to_json(), "images": self.images - len(failed), "failed": failed}
        facts |= {"trained_on": self.known} if self.known else {}
        return facts | ({"calibration": self.calibration.to_json()} if self.calibration else {})


def score_file(
    weights: str,
    changes: dict[str, Any],
    *,
    device: Any = "cpu",
    workers: int = 0,
    per_image: bool = False,
    calibration: bool = False,
) -> Evaluation:
    """Evaluate a weights file; an image that fails does not end the work on the others.

    Args:
        weights: `.safetensors` file.
        changes: keys of the file's recipe to override, of those in `USED`.
        device: where to run.
        workers: processes that decode images.
        per_image: whether to keep the counts of each image.
        calibration: whether to look at the probabilities, too, which takes longer.

    Raises:
        FarclussError: the file, the data set or an overridden key is invalid, or no pixel can be scored.
    """
    model, dataset, items = to_score(weights, changes, device)
    failed: list[tuple[str, BaseException]] = []

    def on_error(item: Item, error: BaseException) -> None:
        failed.append((item.image, error))

    counted: list[tuple[Item, NDArray[np.int64]]] = []
    trust = None
    if calibration:
        scores, trust = calibrate(model, dataset, items, workers=workers, on_error=on_error,
                                  on_image=lambda item, matrix: counted.append((item, matrix)))  # fmt: skip
    else:
        look = (lambda _, item, matrix: counted.append((item, matrix))) if per_image else None
        scores = evaluate(model, dataset, items, workers=workers, on_error=on_error, on_image=look)
    if not failed and not scores.confusion.any():
        raise DataError(no_labels("There is nothing to score", len(items)))
    table = PerImage.of(model.classes, counted) if per_image else None
    return Evaluation(scores, len(items), failed, table, trust, trained_on(Path(weights), items))


def trained_on(weights: Path, items: Sequence[Item]) -> int:
    """How many of the images the run learned from, labeled or not, whose directory the weights file lies in."""
    lists = [weights.resolve().parent.parent / "lists" / f"{name}.txt" for name in ("labeled", "unlabeled")]
    known = {line.split("\t")[0] for path in lists if path.is_file() for line in path.read_text().splitlines()}
    return sum(listed(item.image) in known for item in items)


def to_score(weights: str, changes: dict[str, Any], device: Any) -> tuple[Model, Dataset, list[Item]]:
    """A model with the inference options of its recipe, its data set, and the images to score; see `score_file`."""
    model = load(weights, device)
    # Only what is used is validated: stages and writers of plugins that are not installed do not matter.
    own = model.card.recipe
    settings = {key: value for key, value in own.get("eval", {}).items() if key in USED["eval"]}
    recipe = validate({"data": own.get("data", {}), "eval": settings, "train": {"steps": 1}}, changes)
    refuse_idle(recipe, changes)
    dataset = build_dataset(recipe.data)
    if list(dataset.classes) != model.classes:
        raise RecipeError(
            f"{weights} predicts {len(model.classes)} classes ({', '.join(model.classes[:4])} ...), the data set has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes[:4])} ...).\nUse data with the same classes."
        )
    items = resolve_val(dataset, recipe.data)
    if not items:
        raise RecipeError("There are no images to evaluate; give --split val, test or a list file.")
    axes = model.card.axes
    crop = crop_sides(recipe.data.crop, axes)
    if recipe.eval.window is not None:
        crop_sides(recipe.eval.window, axes, "eval.window")
    return model.with_inference(inference_of(recipe.eval, crop)), dataset, items


def refuse_idle(recipe: Recipe, changes: dict[str, Any]) -> None:
    """Raise RecipeError when an overridden key changes no score: whoever sets it expects that it does."""
    given = {section: set(changes.get(section) or ()) for section in USED}
    for section, used in USED.items():
        if idle := sorted(given[section] - used):
            keys = ", ".join(sorted(used))
            raise RecipeError(f"--set {section}.{idle[0]} changes no score: of [{section}], eval uses only {keys}.")
    windows = [key for key in OF_WINDOWS if key in given["eval"]]
    if windows and recipe.eval.mode != "sliding":
        raise RecipeError(
            f"--set eval.{windows[0]} changes no score, as whole images are predicted. Add --set eval.mode=sliding."
        )
    if "root" in given["data"] and recipe.data.pack is not None:
        raise RecipeError(
            f"--set data.root changes no score, as images are read from the pack {recipe.data.pack}.\n"
            "Give the folder by --data instead, or another pack by --set data.pack=FILE."
        )
