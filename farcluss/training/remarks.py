"""What is odd about a run without being an error, known before it starts: shown by `check` and by `run`."""

from farcluss.learning.build import Parts


def remarks(parts: Parts) -> list[str]:
    """Warnings about the settings of a recipe."""
    recipe, steps = parts.recipe, parts.steps()
    found = []
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
    return found
