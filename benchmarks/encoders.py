"""What a transformer's encoder costs: time and memory of a step plain, frozen and checkpointed, and what it learns.

python benchmarks/encoders.py costs --encoder vit_small_patch14_dinov2 --crop 224
python benchmarks/encoders.py learns --seeds 0 1 2

`costs` takes steps of 1 + 1 images with FixMatch and UniMatch, each in a process of its own: the median CPU time of
a step, the images that its encoder sees, and by how much the peak of resident memory grows behind the build. `learns`
trains `test_vit` from scratch on the drawn scenes of `quickstart`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

from recording import record, revision

from farcluss import load_recipe, train

VARIANTS = {
    "plain": [],
    "frozen": ["network.frozen=true"],
    "half frozen": ["network.frozen=6"],
    "checkpointed": ["network.checkpointing=true"],
}
STEPS = 7


def one_cost(method: str, encoder: str, crop: int, settings: list[str]) -> dict[str, float]:
    """Figures of one variant, in this process."""
    from farcluss.training import engine, steps

    times, seen, images = list[float](), list[int](), list[int]()
    prepare, step = engine.prepare, steps.one_step
    peaks = list[int]()

    def prepared(*arguments):
        run = prepare(*arguments)
        for network in (run.networks["student"], run.learner.teacher):
            network.encoder.patch_embed.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return run

    def timed(*arguments):
        begin, before = time.process_time(), len(seen)
        result = step(*arguments)
        times.append(time.process_time() - begin)
        images.append(sum(seen[before:]))
        return result

    fixed = [f"network.encoder={encoder}", f"data.crop={crop}", f"data.layout.size={crop}", f"train.steps={STEPS}"]
    fixed += ["network.name=dpt", "train.batch=1", "data.val=none", "data.workers=0", "loss.warmup_steps=0"]
    fixed += ["train.log_every=99", "train.checkpoint_every=99"]
    with tempfile.TemporaryDirectory() as folder, patch.object(engine, "prepare", prepared):
        with patch.object(engine, "one_step", timed):
            train(load_recipe("quickstart", [method], [*fixed, *settings]), Path(folder) / "run")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peaks[0]
    return {"cpu_s": round(median(times[2:]), 2), "images": median(images), "peak_mib": round(grown / 1024)}


def costs(encoder: str, crop: int) -> dict[str, dict[str, float]]:
    """Figures of all variants, by method and name."""
    found = {}
    for method in ("fixmatch", "unimatch"):
        for name, settings in VARIANTS.items():
            given = json.dumps([method, encoder, crop, settings])
            done = subprocess.run([sys.executable, __file__, "one", given], capture_output=True, text=True, check=True)
            found[f"{method}, {name}"] = json.loads(done.stdout.splitlines()[-1])
            print(f"{method}, {name}: {found[f'{method}, {name}']}", flush=True)
    return found


def learns(seeds: list[int]) -> list[dict[str, float]]:
    """mIoU in percent of `test_vit` from scratch, first and last evaluation, for each seed."""
    found = []
    settings = ["network.name=dpt", "network.encoder=test_vit", "train.optimizer=adamw", "train.lr=0.001",
                "train.head_lr=1.0", "train.weight_decay=0.01"]  # fmt: skip
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = train(load_recipe("quickstart", [], [*settings, f"train.seed={seed}"]), Path(folder) / "run")
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curve = [round(100 * line["teacher_miou"], 1) for line in lines if line["kind"] == "eval"]
        found.append({"seed": seed, "first": curve[0], "last": curve[-1]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("costs", "learns", "one"))
    parser.add_argument("given", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--encoder", default="vit_small_patch14_dinov2")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    if given.what == "one":
        print(json.dumps(one_cost(*json.loads(given.given))))
    elif given.what == "costs":
        figures = {"encoder": given.encoder, "crop": given.crop, "costs": costs(given.encoder, given.crop)}
        record("encoders", figures | {"commits": [revision()]})
    else:
        figures = {"learns": learns(given.seeds), "commits": [revision()]}
        print(figures["learns"])
        record("encoders", figures)


if __name__ == "__main__":
    main()
