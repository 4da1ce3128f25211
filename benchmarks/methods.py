"""Compare methods on one recipe over seeds: last and best mIoU of the teacher.

python benchmarks/methods.py quickstart --methods supervised farcluss --seeds 0 1 2

A run that is complete in the output folder is read, not repeated.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from recording import record, revision

from farcluss import load_recipe, train


def scores(folder: Path, steps: int) -> dict | None:
    """Last and best mIoU of a run in percent; None for one that has not reached its last step."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    evaluations = [line for line in lines if line["kind"] == "eval"]
    if not evaluations or evaluations[-1]["step"] != steps:
        return None
    curve = [100 * line["teacher_miou"] for line in evaluations]
    return {"last": round(curve[-1], 2), "best": round(max(curve), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--methods", nargs="+", default=["supervised", "farcluss"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    arguments = parser.parse_args()
    table: dict[str, list[dict]] = {}
    revisions = set()
    for method in arguments.methods:
        for seed in arguments.seeds:
            recipe = load_recipe(arguments.recipe, [method], [*arguments.settings, f"train.seed={seed}"])
            folder = arguments.output / f"{recipe.name}-{seed}"
            if scores(folder, recipe.train.steps) is None:
                train(recipe, folder, overwrite=True)
                (folder / "revision").write_text(revision())
            revisions.add((folder / "revision").read_text() if (folder / "revision").exists() else "unknown")
            table.setdefault(method, []).append(scores(folder, recipe.train.steps))
    facts = json.loads((folder / "environment.json").read_text())
    figures = {
        "recipe": arguments.recipe,
        "settings": arguments.settings,
        "seeds": arguments.seeds,
        "methods": table,
        "versions": facts["versions"],
        "device": facts["device"],
        "commits": sorted(revisions),
    }
    record("methods", figures)
    print(f"{'method':14}" + "".join(f"  seed {seed:<3}" for seed in arguments.seeds) + "  mean   (last mIoU %)")
    for method, runs in table.items():
        last = [run["last"] for run in runs]
        print(f"{method:14}" + "".join(f"  {value:8.2f}" for value in last) + f"  {mean(last):.2f}")


if __name__ == "__main__":
    main()
