"""Do unlabeled images help on real images? Methods over seeds, as `farcluss compare` runs them; a row for each run.

python benchmarks/real.py --data DATA --sets camvid_1_16 --seeds 0 1 2 --jobs 2
python benchmarks/real.py --table      # the table of docs/results.md, from all rows

DATA holds `camvid`, `dubai`, `lgg`, `hippocampus` and `weights/tf_efficientnet_lite0.safetensors`. What is measured is
in `results/real.jsonl`, a row as soon as a run is scored; runs on several machines fill one table. Settings were fixed
before the first run; the reported images chose nothing.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from recording import record, revision

from farcluss.jobs.comparing import Job, plan, work
from farcluss.jobs.comparison import results_of

HERE = Path(__file__).parent
ROWS = HERE / "results" / "real.jsonl"
KEY = ("set", "method", "seed", "of_run")
"""What tells one row from another; `of_run` is the revision that trained."""


class Set(NamedTuple):
    """Recipe in `real/`, folder below DATA, split to report, and whether it begins with the pretrained encoder."""

    recipe: str
    folder: str
    split: str | None
    pretrained: bool
    settings: tuple[str, ...] = ()


SETS = {
    "camvid_1_16": Set("camvid", "camvid", "test", True),
    "camvid_1_8": Set("camvid", "camvid", "test", True, ('data.labeled="1/8"',)),
    "dubai": Set("dubai", "dubai", None, True),
    "lgg2d": Set("lgg2d", "lgg", "test", True),
    "lgg3d": Set("lgg3d", "lgg", "test", False),
    "hippocampus": Set("hippocampus", "hippocampus", None, False),
}
METHODS = {
    "labels alone": "supervised",
    "mean teacher": "mean_teacher",
    "FixMatch": "fixmatch stages.mix=none",
    "FixMatch, CutMix": "fixmatch",
    "FARCLUSS": "farcluss",
    "FARCLUSS, CutMix": "farcluss stages.mix=cutmix",
    "FARCLUSS without fuzzy labels": "farcluss stages.pseudo_label=hard",
    "FARCLUSS without weights": "farcluss stages.weight=uniform",
    "FARCLUSS without rebalancing": "farcluss stages.rebalance=uniform",
    "FARCLUSS without contrast": "farcluss stages.contrast=none loss.contrastive=0",
}


def run(name: str, methods: list[str], seeds: list[int], given: argparse.Namespace) -> None:
    """Train and score what is missing of a set, and write a row for each run."""
    own = SETS[name]
    settings = [*own.settings, f"data.root={given.data / own.folder}"]
    if own.pretrained:
        settings.append(f"network.pretrained={given.data / 'weights' / 'tf_efficientnet_lite0.safetensors'}")
    recipe = str(HERE / "real" / f"{own.recipe}.toml")
    for seed in seeds:
        jobs = plan(recipe, methods, [seed], [], given.output / name, settings=settings, split=own.split)
        failed = work(jobs, given.jobs, lambda text: print(f"{name}: {text}", flush=True))
        write(name, jobs)
        for run_name, text in failed.items():
            print(f"{name}: {run_name} failed: {text}")


def write(name: str, jobs: list[Job]) -> None:
    """A row for each run that is done and has none yet."""
    known = {tuple(row[key] for key in KEY) for row in rows()}
    for result in results_of(jobs):
        job, stamp = result.job, result.job.folder / "revision"
        if not stamp.exists():
            stamp.write_text(revision())
        key = dict(zip(KEY, (name, job.method.text, job.seed, stamp.read_text()), strict=True))
        if tuple(key.values()) not in known:
            scores = {"last_miou": result.miou, "best_miou": result.best, "hours": result.hours}
            facts = {"images": len(result.images.images), "memory_gib": result.memory_gib}
            record("real", key | scores | facts)


def rows() -> list[dict[str, Any]]:
    """All that was measured, on any machine."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def table() -> str:
    """A table per set: mIoU of each seed, mean, spread, and the mean difference to labels alone on the same seeds."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows():  # of several rows of a run, the last counts
        found.setdefault(row["set"], {}).setdefault(row["method"], {})[row["seed"]] = 100 * row["last_miou"]
    parts = []
    for name, methods in found.items():
        seeds = sorted({seed for scores in methods.values() for seed in scores})
        lines = [f"| `{name}` | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | spread | to labels alone |"]
        lines.append("|---" * (len(seeds) + 4) + "|")
        for title, text in METHODS.items():
            scores = methods.get(text)
            if not scores:
                lines.append(f"| {title} |{' |' * (len(seeds) + 3)}")
                continue
            first = methods.get("supervised", {})
            gaps = [value - first[seed] for seed, value in scores.items() if seed in first and text != "supervised"]
            cells = [f"{scores[seed]:.2f}" if seed in scores else "" for seed in seeds]
            cells += [f"{mean(scores.values()):.2f}", f"{stdev(scores.values()):.2f}" if len(scores) > 1 else ""]
            lines.append(f"| {title} | {' | '.join(cells)} | {f'{mean(gaps):+.2f}' if gaps else ''} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS.values()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/real"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table())
        return
    if given.data is None or not given.data.is_dir():
        print(f"There is no data in {given.data}: nothing was measured.")
        return
    for name in given.sets:
        run(name, given.methods, given.seeds, given)


if __name__ == "__main__":
    main()
