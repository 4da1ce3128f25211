"""One labeled scan and twelve unlabeled ones against the labeled one alone, on drawn tumors: Dice and mIoU.

OMP_NUM_THREADS=1 python benchmarks/phantoms.py --seeds 0 1 2

No two scans look alike: the tumor's contrast, place and size, the bias field, the noise, and bright and dark structures
beside it differ from case to case. A seed draws its own labeled scan, unlabeled ones and those for validation, and is
that of the training. All methods have the same network, steps and settings; the teacher of the last step is scored.
Drawing and settings were tuned on the seeds 100 and 101. A run that is complete in the output folder is read, not
repeated.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev

import nibabel
import numpy as np
from recording import record, revision

from farcluss import load_recipe, train
from farcluss.inference.weights import load
from farcluss.learning.build import build_dataset
from farcluss_medical.metrics import score

LABELED, UNLABELED, VALIDATION = 1, 12, 8
SHAPE = (36, 40, 28)
STEPS = 500
SETTINGS = [
    "data.val=val",
    "data.crop=[24, 24, 24]",
    "data.workers=0",
    "network.architecture=UNet",
    "network.arguments={channels=[16, 32, 48, 48], strides=[2, 2, 2], num_res_units=1}",
    "loss.warmup_steps=100",
    "loss.ramp_steps=50",
    "loss.unsupervised_dice=1",
    "train.batch=2",
    f"train.steps={STEPS}",
    "train.lr=0.02",
    "train.ema=0.98",
    f"eval.every={STEPS}",
]
"""Of the recipe medical_tumor3d; the same for every method."""
METHODS = {
    "supervised": [],
    "mean_teacher": [],
    "fixmatch": ['stages.mix={ name = "cutmix", p = 0.5 }', "stages.weight.threshold=0.8"],
    "farcluss_plus": ["stages.rebalance=uniform"],
}
"""What concerns a method alone."""


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Voxels `SHAPE` int16 of a scan, 0 outside the brain, and its tumor."""
    axes = [np.linspace(-1, 1, extent) for extent in SHAPE]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    brain = _blob(grid, np.zeros(3), np.full(3, 0.95))
    tumor = _blob(grid, rng.uniform(-0.4, 0.4, 3), rng.uniform(0.25, 0.45, 3)) & brain
    values = np.full(SHAPE, 400.0)
    for low, high in ((-200, -80), (50, 120)):  # ventricles, vessels: smaller than the tumor
        for _ in range(2):
            spot = _blob(grid, rng.uniform(-0.6, 0.6, 3), rng.uniform(0.08, 0.16, 3))
            values[spot] += rng.uniform(low, high)
    values[tumor] = 400 + rng.uniform(60, 400)
    values *= np.exp(np.tensordot(rng.uniform(-0.35, 0.35, 3), grid, 1))  # the receiving coils
    values += rng.uniform(10, 40) * rng.standard_normal(SHAPE)
    return np.where(brain, values.clip(1, 2000), 0).astype(np.int16), tumor.astype(np.uint8)


def _blob(grid: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Where an ellipsoid is."""
    return (((grid - center[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0) <= 1


def write(root: Path, seed: int) -> None:
    """A data set in the layout of the Medical Segmentation Decathlon."""
    rng = np.random.default_rng(seed)
    facts: dict = {"labels": {"0": "background", "1": "tumor"}}
    for section, count in (("training", LABELED), ("unlabeled", UNLABELED), ("validation", VALIDATION)):
        facts[section] = []
        for number in range(count):
            entry = {"image": f"images/{section}_{number}.nii.gz", "label": f"labels/{section}_{number}.nii.gz"}
            for path, array in zip(entry.values(), draw(rng), strict=True):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / path)
            facts[section].append(entry)
    (root / "dataset.json").write_text(json.dumps(facts))


def scores(run: Path) -> dict[str, float]:
    """Mean Dice of the tumor over the cases, and mIoU over all voxels, of the last teacher, in percent."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "eval"][-1]
    dataset, model = build_dataset(load_recipe(run / "recipe.toml").data), load(run / "weights" / "last.safetensors")
    dice = []
    for item in dataset.items("val"):
        sample = dataset.read(item)
        found = model.probs(sample.image).argmax(0).numpy() == 1
        dice.append(score(sample.mask == 1, found, (1.0, 1.0, 1.0)).values["dice"])
    return {"dice": round(100 * mean(dice), 2), "miou": round(100 * last["teacher_miou"], 2)}


def measure(method: str, seed: int, output: Path, settings: list[str]) -> dict:
    """Scores of one run, which is made where it is not there."""
    run, root = output / f"{method}-{seed}", output / f"scans-{seed}"
    path = run / "scores.json"
    if not path.exists():
        if not root.exists():
            write(root, seed)
        own = [f"data.root={root}", f"data.layout.cache={output / 'cache'}", f"train.seed={seed}"]
        start = time.process_time()
        train(
            load_recipe("medical_tumor3d", [method], [*SETTINGS, *METHODS[method], *own, *settings]),
            run,
            overwrite=True,
        )
        seconds = round(time.process_time() - start, 1)
        path.write_text(json.dumps(scores(run) | {"cpu_seconds": seconds, "commit": revision()}))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["supervised", "fixmatch", "farcluss_plus"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("runs/phantoms"))
    arguments = parser.parse_args()
    table = {
        method: [measure(method, seed, arguments.output, arguments.settings) for seed in arguments.seeds]
        for method in arguments.methods
    }
    cases = {"labeled": LABELED, "unlabeled": UNLABELED, "validation": VALIDATION}
    settings = {method: [*SETTINGS, *METHODS[method], *arguments.settings] for method in table}
    figures = {"cases": cases, "settings": settings, "seeds": arguments.seeds, "methods": table}
    record("phantoms", figures)
    print(f"{'Dice (mIoU) %':14}" + "".join(f"  seed {seed:<8}" for seed in arguments.seeds) + "  mean +- deviation")
    for method, runs in table.items():
        dice = [run["dice"] for run in runs]
        spread = f"{mean(dice):.2f} +- {stdev(dice) if len(dice) > 1 else 0:.2f}"
        print(f"{method:14}" + "".join(f"  {run['dice']:.2f} ({run['miou']:.2f})" for run in runs) + f"  {spread}")


if __name__ == "__main__":
    main()
