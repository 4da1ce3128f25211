"""Where the parts of FARCLUSS lose with two classes and few steps: variants on the drawn tumors of `phantoms.py`.

OMP_NUM_THREADS=1 python benchmarks/defaults.py --seeds 100 101 102 103

These seeds are for settling defaults; what is reported elsewhere uses others. Beside Dice: how large the tumors are
that the last teacher finds, as a share of the true ones. A run that is complete in the output folder is read, not
repeated.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from phantoms import SETTINGS, write
from recording import record, revision

from farcluss import load_recipe, train
from farcluss.inference.weights import load
from farcluss.learning.build import build_dataset
from farcluss_medical.metrics import score


def bounded(limit: float, **options: str) -> str:
    """The setting of rebalancing with bounded class weights, normalized unless it says otherwise."""
    words = {"normalize": "mean", **options}
    text = ", ".join(f'{key} = "{value}"' for key, value in words.items())
    return f'stages.rebalance={{ name = "median-frequency", max_weight = {limit}, {text} }}'


MIXED = ("farcluss", "loss.unsupervised=0.5")
BASE = (*MIXED, "stages.mix=none")
VARIANTS = {
    "supervised": ("supervised",),
    "bound 10": (*BASE, bounded(10)),
    "bound 3": (*BASE, bounded(3)),
    "bound 2": (*BASE, bounded(2)),
    "bound 1": (*BASE, bounded(1)),
    "bound 10, expected": (*BASE, bounded(10, apply="expected")),
    "bound 10, not normalized": (*BASE, bounded(10, normalize="none")),
    "none": BASE,
    "none, no contrast": (*BASE, "stages.contrast=none", "loss.contrastive=0"),
    "none, no weights": (*BASE, "stages.weight=uniform"),
    "none, warm-up 200": (*BASE, "loss.warmup_steps=200"),
    "none, lambda_u 1": (*BASE, "loss.unsupervised=1"),
    "none, CutMix": MIXED,
    "bound 2, CutMix": (*MIXED, bounded(2)),
    "none, CutMix, top 1": (*MIXED, "stages.pseudo_label.top_k=1"),
    "none, CutMix, top 1, lambda_u 1": ("farcluss", "stages.pseudo_label.top_k=1", "loss.unsupervised=1"),
    "none, CutMix, no contrast": (*MIXED, "stages.contrast=none", "loss.contrastive=0"),
}
"""By name: method and settings. "none" is without rebalancing, as the recipe has it; with CutMix where it says so."""


def measure(name: str, seed: int, output: Path) -> dict:
    """Figures of one run, which is made where it is not there."""
    method, *settings = VARIANTS[name]
    run, root = output / f"{name}-{seed}", output / f"scans-{seed}"
    path = run / "figures.json"
    if not path.exists():
        if not root.exists():
            write(root, seed)
        own = [f"data.root={root}", f"data.layout.cache={output / 'cache'}", f"train.seed={seed}"]
        train(load_recipe("medical_tumor3d", [method], [*SETTINGS, *settings, *own]), run, overwrite=True)
        path.write_text(json.dumps(figures(run) | {"of_run": revision()}))
    return json.loads(path.read_text())


def figures(run: Path) -> dict[str, float]:
    """Mean Dice of the tumor in percent, and the mean ratio of found to true volume, of the last teacher."""
    dataset, model = build_dataset(load_recipe(run / "recipe.toml").data), load(run / "weights" / "last.safetensors")
    dice, sizes = [], []
    for item in dataset.items("val"):
        sample = dataset.read(item)
        found = model.probs(sample.image).argmax(0).numpy() == 1
        dice.append(score(sample.mask == 1, found, (1.0, 1.0, 1.0)).values["dice"])
        sizes.append(found.sum() / (sample.mask == 1).sum())
    return {"dice": round(100 * mean(dice), 2), "size": round(float(mean(sizes)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102, 103])
    parser.add_argument("--output", type=Path, default=Path("runs/defaults"))
    given = parser.parse_args()
    print("| variant | " + " | ".join(f"{seed}" for seed in given.seeds) + " | mean Dice | size |")
    for name in given.variants:
        runs = [measure(name, seed, given.output) for seed in given.seeds]
        record("defaults", {"variant": name, "settings": VARIANTS[name], "seeds": given.seeds, "runs": runs})
        cells = [f"{run['dice']:.2f}" for run in runs] + [f"{mean(run['dice'] for run in runs):.2f}"]
        print(f"| {name} | {' | '.join(cells)} | {mean(run['size'] for run in runs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
