"""Steps of a recipe's training, each looked at."""

from farcluss.jobs.trial import trial
from farcluss.learning.build import Parts
from farcluss.recipes.model import Recipe
from farcluss.training.engine import load_batches
from farcluss.training.steps import one_step


def steps_of(recipe: Recipe, parts: Parts, steps: int) -> tuple[list[dict[str, float]], list[float]]:
    """Losses of each step, and how far student and teacher went from where they began."""
    with trial(parts, steps, workers=0) as run:
        networks = run.networks["student"], run.learner.teacher
        before = [[p.detach().clone() for p in network.parameters()] for network in networks]
        losses = []
        for host in load_batches(run):
            done = one_step(run, host, recipe.semi_supervised, logging=False)
            losses.append({key: float(value) for key, value in done.losses.items()})
            run.step += 1
        after = [[p.detach() for p in network.parameters()] for network in networks]
    pairs = [zip(new, old, strict=True) for new, old in zip(after, before, strict=True)]
    return losses, [sum(float((p - q).abs().sum()) for p, q in pair) for pair in pairs]
