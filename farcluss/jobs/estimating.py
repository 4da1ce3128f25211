"""How long the runs of a comparison take here: a few steps of each method are timed, and a few images scored."""

import time
from collections.abc import Sequence
from typing import Any

from farcluss.inference.evaluation import evaluate
from farcluss.inference.weights import Model
from farcluss.jobs.checking import dry_run
from farcluss.jobs.comparing import Job
from farcluss.jobs.trial import trial
from farcluss.learning.build import Parts, build_parts
from farcluss.runs.folder import RunFolder

SCORED = 2
"""Images that are scored to time it."""


def estimate(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """For each run its name, steps, seconds per step, hours that are left, and state, as plain values.

    Raises:
        FarclussError: as at the start of a run.
    """
    known: dict[tuple[str, str | None], tuple[int, float, float]] = {}
    lines = []
    for job in jobs:
        key = job.method.text, job.labeled
        if key not in known:
            parts = build_parts(job.recipe)
            known[key] = parts.steps(), dry_run(parts)["seconds_per_step"], _scoring(parts)
        steps, step, scoring = known[key]
        reached = steps if job.done else max((line["step"] for line in RunFolder(job.folder).lines()), default=0)
        left = steps - reached
        hours = (left * step + scoring * -(-left // job.recipe.eval.every)) / 3600
        state = "done" if job.done else f"goes on after step {reached}" if reached else "to do"
        lines.append({"run": job.name, "steps": steps, "seconds_per_step": step, "hours": hours, "done": job.done,
                      "state": state})  # fmt: skip
    return lines


def _scoring(parts: Parts) -> float:
    """Seconds that student and teacher take for all validation images, by a few of them."""
    items = parts.splits.val
    if not items:
        return 0.0
    with trial(parts, 1, workers=0) as run:
        model = Model(run.learner.teacher, parts.card()).to(run.accelerator.device)
        begin = time.perf_counter()
        evaluate(model, parts.dataset, items[:SCORED])
    return 2 * (time.perf_counter() - begin) * len(items) / min(SCORED, len(items))
