"""Evaluating a weights file on a data set, by the recipe that the file contains."""

from typing import Any

from farcluss.data.splits import find_list, read_list, resolve
from farcluss.errors import RecipeError
from farcluss.inference.card import inference_of
from farcluss.inference.evaluation import Scores, evaluate
from farcluss.inference.weights import load
from farcluss.learning.build import build_dataset, crop_sides
from farcluss.recipes.reading import validate


def score_file(weights: str, changes: dict[str, Any], *, device: Any = "cpu", workers: int = 0) -> Scores:
    """Evaluate a weights file.

    Args:
        weights: `.safetensors` file.
        changes: keys of the file's recipe to override: `data.root`, `data.val`, `eval.*`.
        device: where to run.
        workers: processes that decode images.

    Raises:
        FarclussError: the file, the data set or an overridden key is invalid.
    """
    model = load(weights, device)
    recipe = validate(model.card.recipe, changes)
    dataset = build_dataset(recipe.data)
    if list(dataset.classes) != model.classes:
        raise RecipeError(
            f"{weights} predicts {len(model.classes)} classes ({', '.join(model.classes[:4])} ...), the data set has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes[:4])} ...).\nUse data with the same classes."
        )
    if path := find_list(recipe.data.val, recipe.data):
        items = read_list(path, dataset)
    elif recipe.data.val in ("val", "test"):
        items = dataset.items(recipe.data.val)
    else:
        items = resolve(dataset, recipe.data).val
    if not items:
        raise RecipeError("There are no images to evaluate; give --split val, test or a list file.")
    crop = crop_sides(recipe.data.crop, len(dataset.size(items[0])))
    return evaluate(model.with_inference(inference_of(recipe.eval, crop)), dataset, items, workers=workers)
