"""Compare methods on one recipe over seeds: last and best mIoU of the teacher, and what a step costs.

python benchmarks/methods.py quickstart --methods supervised farcluss --seeds 0 1 2

A run that is complete in the output folder is read, not repeated. Costs are the median CPU time of a step, and the
images that pass the encoder in a step for each labeled image, with and without a backward pass.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

from recording import record, revision

from farcluss import load_recipe, train

TIMED = 24
"""Steps of a run that is timed; the first half is left out."""


def scores(folder: Path, steps: int) -> dict | None:
    """Last and best mIoU of a run in percent; None for one that has not reached its last step."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    evaluations = [line for line in lines if line["kind"] == "eval"]
    if not evaluations or evaluations[-1]["step"] != steps:
        return None
    curve = [100 * line["teacher_miou"] for line in evaluations]
    return {"last": round(curve[-1], 2), "best": round(max(curve), 2)}


def cost(name: str, method: str, settings: list[str]) -> dict[str, float]:
    """CPU time of a step in milliseconds, and encoder images of a step for each labeled one."""
    import torch

    from farcluss.training import engine, steps

    short = [f"train.steps={TIMED}", "loss.warmup_steps=0", "loss.ramp_steps=0", f"eval.every={TIMED}", "data.val=none"]
    recipe = load_recipe(name, [method], [*settings, *short])
    counts: Counter[str] = Counter()
    times, seen = list[float](), list[Counter[str]]()

    def prepared(*arguments):
        run = whole(*arguments)
        for network in (run.networks["student"], run.learner.teacher):
            network.encoder.register_forward_hook(
                lambda module, inputs, output: counts.update(
                    {"forward": len(inputs[0]), "backward": len(inputs[0]) * torch.is_grad_enabled()}
                )
            )
        return run

    def timed(*arguments):
        before, begin = counts.copy(), time.process_time()
        result = step(*arguments)
        times.append(time.process_time() - begin)
        seen.append(counts - before)
        return result

    whole, step = engine.prepare, steps.one_step
    with tempfile.TemporaryDirectory() as folder, patch.object(engine, "prepare", prepared):
        with patch.object(engine, "one_step", timed):
            train(recipe, Path(folder) / "run")
    images = {key: count / recipe.train.batch for key, count in seen[-1].items()}
    return {"cpu_ms": round(1000 * median(times[TIMED // 2 :]), 1)} | images


def run_all(name: str, methods: list[str], settings: list[str], seeds: list[int], output: Path) -> dict[str, Any]:
    """Scores of each method and seed, and where and with which code they were made."""
    table: dict[str, list[dict]] = {method: [] for method in methods}
    revisions, facts = set(), {}
    for method in methods:
        for seed in seeds:
            recipe = load_recipe(name, [method], [*settings, f"train.seed={seed}"])
            folder = output / f"{recipe.name}-{seed}"
            if scores(folder, recipe.train.steps) is None:
                train(recipe, folder, overwrite=True)
                (folder / "revision").write_text(revision())
            revisions.add((folder / "revision").read_text() if (folder / "revision").exists() else "unknown")
            table[method].append(scores(folder, recipe.train.steps))
            facts = json.loads((folder / "environment.json").read_text())
    known = {key: facts[key] for key in ("versions", "device") if key in facts}
    return {"methods": table, "commits": sorted(revisions or {revision()})} | known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--methods", nargs="+", default=["supervised", "farcluss"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="none: costs alone")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    given = parser.parse_args()
    figures = run_all(given.recipe, given.methods, given.settings, given.seeds, given.output)
    costs = {method: cost(given.recipe, method, given.settings) for method in given.methods}
    told = {"recipe": given.recipe, "settings": given.settings, "seeds": given.seeds}
    record("methods", told | figures | {"costs": costs})
    seeds = "".join(f" seed {seed} |" for seed in given.seeds)
    print(f"| method |{seeds} mean | CPU time of a step | encoder images: forward | backward |")
    print("|---" * (len(given.seeds) + 5) + "|")
    first = next(iter(costs.values()))["cpu_ms"]
    for method, runs in figures["methods"].items():
        last, spent = [run["last"] for run in runs], costs[method]
        average = f"{mean(last):.1f}" if last else "-"
        cells = [f"`{method}`", *(f"{each:.1f}" for each in last), average, f"{spent['cpu_ms'] / first:.2f}"]
        print(f"| {' | '.join([*cells, *(f'{spent[key]:g}' for key in ('forward', 'backward'))])} |")


if __name__ == "__main__":
    main()
