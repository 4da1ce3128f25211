"""The number of processes, and of the parts in which each sends its batch, changes nothing but rounding."""

import json
from pathlib import Path

import pytest
import ranks
import torch

from farcluss.runs.checkpoints import read

MOVES = 'stages={ augment = { name = "photometric", degrees = 20.0, views = 2 }, mix = { name = "cutmix", p = 1.0 } }'
PULL = 'stages.contrast={ name = "prototype", dim = 4, confidence = 0.2, detach = false, repulsion = 0.5, '
PULL += "include_labeled = true }"
LOSSES = ("supervised", "unsupervised", "unsupervised_dice", "contrastive")
STATE = "stages.weight=adaptive"
DROP = "stages.perturb=feature-dropout"
DICE = ["loss.supervised=dice-cross-entropy", "loss.unsupervised_dice=1.0"]
OHEM = ["loss.supervised=ohem", "loss.ohem_threshold=0.1", "loss.ohem_min_kept=75"]
AGREE = 'stages={ augment = { name = "by-agreement", threshold = 0.3 }, mix = "adaptive-cutmix" }'
LEARNED = ["stages.pseudo_label=aligned", "stages.weight=crossing-threshold", "loss.divisor=all"]
DROPS = ["stages.augment={ name = 'photometric', views = 2 }", "stages.perturb=complementary-dropout"]
LAYERS = ["train.lr=0.01", "train.head_lr=1.0", "train.layer_decay=0.8", "train.decay_norms=false"]
RUNS = {
    "defaults": [],
    "methods": [AGREE, *LEARNED, "loss.view_shares=[1.0, 1.0]", "train.lr=0.05", *ranks.DOUBLE],
    "everything": [MOVES, PULL, DROP, *OHEM, STATE, "loss.contrastive=1.0", "train.lr=0.05", *ranks.DOUBLE],
    "dice": [MOVES, PULL, *DICE, "train.lr=0.05", *ranks.DOUBLE],
    "transformer": [*DROPS, *ranks.TRANSFORMER, *LAYERS],
    "adamw": ["train.optimizer=adamw", "train.clip=0.1", "loss.warmup_steps=1", *ranks.DOUBLE],
}
# Further runs by number of processes, their batch in several parts: name -> (the run that they repeat, settings).
APART = "train.split_backward=true"
MORE = "one, more"  # further runs in one process, for the slow tests
PARTS = {name: {f"{name}-{n}": (name, [f"train.accumulate={n}"]) for n in (2, 8)} for name in RUNS}
SPLIT = {
    1: PARTS["everything"]
    | {"everything-apart": ("everything", [APART]), "everything-2-apart": ("everything", [APART, "train.accumulate=2"])}
    | {"dice-8": PARTS["dice"]["dice-8"]},
    MORE: PARTS["defaults"]
    | PARTS["adamw"]
    | {"dice-2": PARTS["dice"]["dice-2"]}
    | {f"{name}-apart": (name, [APART]) for name in ("defaults", "dice")},
    2: {
        "everything-2": ("everything", ["train.accumulate=2"]),
        "pictures": ("methods", ["network.name=tiny", "data.val=val"]),
        "dice-2-apart": ("dice", [APART, "train.accumulate=2"]),
    },
    4: {"everything-apart": ("everything", [APART])},
}


def runs_of(world: int | str) -> dict[str, list[str]]:
    further = {variant: [*RUNS[name], *settings] for variant, (name, settings) in SPLIT[world].items()}
    return further if world == MORE else RUNS | further


class Folders(dict[int | str, Path]):
    """The folder of all runs by number of processes; they are done when they are asked for."""

    def __init__(self, make_folder) -> None:
        super().__init__()
        self.make_folder = make_folder

    def __missing__(self, world: int | str) -> Path:
        folder = self[world] = self.make_folder(f"world{world}")
        (folder / "recipe.toml").write_text(ranks.RECIPE)
        if world in (1, MORE):
            list(ranks.run_all(folder, runs_of(world)))
        else:
            ranks.launch((folder, world, runs_of(world)))
        return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp)


def lines(folder: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


FOUR = pytest.param(4, marks=pytest.mark.slow)
CASES = [(2, name, name) for name in RUNS]
CASES += [pytest.param(4, name, name, marks=pytest.mark.slow) for name in RUNS]
CASES += [
    pytest.param(world, name, variant, marks=[pytest.mark.slow] if world in (MORE, 4) else [])
    for world in SPLIT
    for variant, (name, _) in SPLIT[world].items()
    if variant != "pictures"  # which have to be drawn without the other processes: they would wait for one another
]


@pytest.mark.parametrize(("world", "name", "variant"), CASES)
def test_the_split_changes_nothing(folders, world, name, variant):
    """Against one process with one micro-batch: losses, statistics and weights after each of the steps."""
    one, other = folders[1] / name, folders[world] / variant
    tolerance = 1e-5 if name == "defaults" else 1e-12  # in float32 and in float64
    for mine, theirs in zip(lines(one, "train"), lines(other, "train"), strict=True):
        assert mine["lr"] == theirs["lr"]
        assert mine.get("histogram") == theirs.get("histogram")
        for key in (*LOSSES, "total", "prototype_cosine", "mean_weight"):
            assert (key in mine) == (key in theirs)
            if key in mine:
                assert mine[key] == pytest.approx(theirs[key], rel=tolerance), (mine["step"], key)
    for step in range(1, ranks.STEPS + 1):
        states = [read(folder / "checkpoints" / f"step-{step:08d}.pt").state for folder in (one, other)]
        mine, theirs = ({who: state[who] for who in ("student", "teacher")} | state["stages"] for state in states)
        for who, tensors in mine.items():
            for key, value in tensors.items():
                difference = (value.double() - theirs[who][key].double()).abs().max()
                assert difference <= tolerance * value.double().abs().max(), (step, who, key)


def test_the_runs_learn_something(folders):
    """Otherwise their equality would say nothing."""
    for name in RUNS:
        folder = folders[1] / name
        first, last = (read(folder / "checkpoints" / f"step-{n:08d}.pt").state["student"] for n in (1, ranks.STEPS))
        assert max((last[key] - first[key]).abs().max() / first[key].abs().max() for key in first) > 0.01
        assert lines(folder, "train")[-1]["contrastive"] > 1e-3
    stage = read(folders[1] / "everything" / "checkpoints" / f"step-{ranks.STEPS:08d}.pt").state["stages"]["weight"]
    assert stage["sure"] > 0.1 and stage["right"] > 0


def test_a_picture_is_drawn_by_one_process(folders):
    """Of stages that sum over processes in a step, too."""
    assert list((folders[2] / "pictures").rglob("*.png"))


@pytest.mark.parametrize("world", [2, FOUR])
def test_every_validation_image_is_counted_once(folders, world):
    """Five images, on processes that their number does not divide into equal shares."""
    one, other = (lines(folders[n] / "defaults", "eval")[-1]["scores"] for n in (1, world))
    assert torch.tensor(one["teacher"]["confusion"]).sum() == 5 * 24 * 24
    assert one == other
