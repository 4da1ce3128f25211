"""The loop: what it writes, that it resumes exactly, that splitting a batch changes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss.errors import FarclussError
from farcluss.jobs.scoring import score_file
from farcluss.recipes.model import Defaults
from farcluss.recipes.reading import load_recipe
from farcluss.runs.checkpoints import read
from farcluss.training.engine import train

RECIPE = tiny_recipe()


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    with registered("network", "tiny", TinyNetwork):
        yield path


def run(recipe_file, name, *settings, **options) -> Path:
    return train(load_recipe(recipe_file, (), settings), recipe_file.parent / name, **options)


def metrics(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "memory_gib", "images_per_second")}
        for line in lines
        if line["kind"] == kind
    ]


def weights(folder: Path, step: int = 6) -> dict[str, torch.Tensor]:
    state = read(folder / "checkpoints" / f"step-{step:08d}.pt").state
    return {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in state[who].items()}


def assert_close(first: Path, second: Path, tolerance: float) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=tolerance, atol=tolerance, msg=name)


def test_a_run_explains_itself(recipe_file):
    folder = run(recipe_file, "run")
    for name in ("recipe.toml", "environment.json", "log.txt", "weights/last.safetensors", "weights/best.safetensors"):
        assert (folder / name).stat().st_size > 0
    assert load_recipe(folder / "recipe.toml") == load_recipe(recipe_file).with_defaults(Defaults())
    assert [line["step"] for line in metrics(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics(folder, "eval")] == [3, 6]
    assert len((folder / "lists" / "labeled.txt").read_text().splitlines()) == 4
    assert len((folder / "lists" / "unlabeled.txt").read_text().splitlines()) == 8
    assert (folder / "pictures" / "step-00000006.png").exists()
    first = metrics(folder, "train")[0]
    assert {"supervised", "unsupervised", "contrastive", "prototype_cosine", "high_entropy", "mean_weight"} <= set(
        first
    )
    assert sum(first["histogram"]) == pytest.approx(1)
    assert 0 <= first["pseudo_label_accuracy"] <= 1
    total = first["supervised"] + 0.5 * first["unsupervised"] + 0.1 * first["contrastive"]
    assert first["total"] == pytest.approx(total, rel=1e-5)


def test_resuming_gives_the_same_bits(recipe_file):
    whole = run(recipe_file, "whole", "stages.augment=photometric")
    for step in (2, 4):
        part = shutil.copytree(whole, recipe_file.parent / f"part{step}")
        for checkpoint in (part / "checkpoints").glob("*.pt"):
            if checkpoint.stem > f"step-{step:08d}":
                checkpoint.unlink()
        run(recipe_file, part.name, "stages.augment=photometric", resume="newest")
        one, two = weights(whole), weights(part)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert metrics(whole, "train") == metrics(part, "train")
        assert metrics(whole, "eval") == metrics(part, "eval")


@pytest.mark.parametrize("supervised", ["cross-entropy", "ohem"])
def test_micro_batches_change_nothing(recipe_file, supervised):
    # Prototypes, and the pixels that OHEM mines, are those of a micro-batch: without them the step is exact.
    settings = [
        f"loss.supervised={supervised}",
        "loss.contrastive=0",
        "loss.ohem_threshold=1.0",
        "data.scale=[0.9, 1.1]",
    ]
    one, four = (run(recipe_file, f"{n}", *settings, f"train.accumulate={n}") for n in (1, 4))
    first, second = metrics(one, "train"), metrics(four, "train")
    if supervised == "cross-entropy":
        assert_close(one, four, tolerance=1e-5)
        assert [line["total"] for line in first] == pytest.approx([line["total"] for line in second], rel=1e-5)
    assert first[0]["unsupervised"] == pytest.approx(second[0]["unsupervised"], rel=1e-5)
    assert first[0]["class_weights"] == pytest.approx(second[0]["class_weights"], rel=1e-6)


def test_warm_up_is_supervised_and_the_ramp_linear(recipe_file):
    folder = run(recipe_file, "run", "loss.warmup_steps=2", "loss.ramp_steps=2")
    lines = metrics(folder, "train")
    assert ["unsupervised" in line for line in lines] == [False, False, True, True, True, True]
    for line, ramp in zip(lines[2:], (0.5, 1, 1, 1), strict=True):
        weighted = 0.5 * line["unsupervised"] + 0.1 * line["contrastive"]
        assert line["total"] == pytest.approx(line["supervised"] + ramp * weighted, rel=1e-5)


def test_supervised_runs_never_read_unlabeled_images(recipe_file, monkeypatch):
    from farcluss.data.shapes import Shapes

    seen: list[str] = []
    original = Shapes.read
    from farcluss.training import engine

    build = engine.prepare

    def spy(self, item, window=None):
        seen.append(item.id)
        return original(self, item, window)

    def forget_the_draw(*arguments):
        seen.clear()  # drawing the labeled share reads masks until every class is covered
        return build(*arguments)

    monkeypatch.setattr(Shapes, "read", spy)
    monkeypatch.setattr(engine, "prepare", forget_the_draw)
    folder = train(load_recipe(recipe_file, ["supervised"]), recipe_file.parent / "run")
    labeled = {line.split()[0] for line in (folder / "lists" / "labeled.txt").read_text().splitlines()}
    assert {name for name in seen if name.startswith("train/")} == labeled
    assert "unsupervised" not in metrics(folder, "train")[-1]


def test_a_batch_that_cannot_be_split_is_refused(recipe_file):
    with pytest.raises(FarclussError, match=r"train.batch = 4 cannot be split over 1 processes and 3 micro-batches"):
        run(recipe_file, "run", "train.accumulate=3")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_clipping_and_optimizers(recipe_file, optimizer):
    settings = [f"train.optimizer={optimizer}", "train.weight_decay=0", "train.steps=2"]
    folder = run(recipe_file, "run", *settings, "train.clip=1e-5")
    start = run(recipe_file, "start", *settings, "train.lr=1e-30")
    moved = (weights(folder, 2)["student.body.0.weight"] - weights(start, 2)["student.body.0.weight"]).abs().max()
    # SGD follows the clipped gradient's length; AdamW is invariant to it.
    assert (moved < 1e-6) == (optimizer == "sgd")


def test_three_dimensional_networks_train(recipe_file):
    from three_d import Cubes

    with registered("dataset", "cubes", Cubes):
        settings = ["data.layout=cubes", "data.channels=2", "data.crop=8", "network.axes=3", "stages.augment=identity"]
        moves = ["data.flip_axes=[0,1,2]", "data.turns=[[1,2]]", "data.mean=0.3"]
        dice = ["loss.supervised=dice-cross-entropy", "loss.unsupervised_dice=1"]
        folder = run(recipe_file, "run", *settings)
        again = run(recipe_file, "moved", *settings, *moves, *dice, "eval.mode=sliding", "eval.blend=gaussian")
    assert 0 < metrics(again, "train")[-1]["unsupervised_dice"] < 1
    lines = metrics(folder, "train")
    assert 0 < lines[-1]["unsupervised"] < 1 and lines[-1]["supervised"] < lines[0]["supervised"]
    assert metrics(folder, "eval")[-1]["teacher_miou"] > 0


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one state per process; a run in another precision needs a new one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_half_precision_trains_and_scores_in_full(recipe_file, fresh_accelerate):
    full = metrics(run(recipe_file, "full"), "train")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    for network in ("teacher", "student"):
        folder = run(recipe_file, network, 'train.mixed_precision="bf16"', f"eval.network={network}")
        half = metrics(folder, "train")
        assert half[0]["total"] == pytest.approx(full[0]["total"], rel=0.02)
        assert half[0]["total"] != full[0]["total"]
        assert {tensor.dtype for tensor in weights(folder).values() if tensor.is_floating_point()} == {torch.float32}
        scored = score_file(str(folder / "weights" / "last.safetensors"), {})
        assert scored.scores.miou == metrics(folder, "eval")[-1][f"{network}_miou"]


def test_trackers_get_the_scalars(recipe_file):
    folder = run(recipe_file, "run", 'train.trackers=["tensorboard"]', "train.steps=2")
    assert list(folder.rglob("events.out.tfevents.*"))


def test_a_start_that_fails_costs_nothing(recipe_file):
    folder = run(recipe_file, "run", "train.steps=2")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    broken = ["network.name=deeplabv3plus", "network.encoder=test_resnet", "network.pretrained=gone.pth"]
    with pytest.raises(FarclussError, match=r"gone\.pth"):
        run(recipe_file, "run", *broken, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(FarclussError, match=r"gone\.pth"):
        run(recipe_file, "fresh", *broken)
    assert not (recipe_file.parent / "fresh").exists()


def test_the_environment_does_not_divide_gradients(recipe_file, monkeypatch):
    plain = run(recipe_file, "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert_close(plain, run(recipe_file, "other"), tolerance=0)


def test_a_tracker_that_is_missing_is_named(recipe_file, monkeypatch):
    from farcluss.training import engine

    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(FarclussError, match=r"wandb.*pip install 'farcluss\[wandb\]'"):
        run(recipe_file, "run", 'train.trackers=["wandb"]')


def test_resuming_elsewhere_makes_a_whole_run_directory(recipe_file):
    first = run(recipe_file, "first", "train.steps=6")
    second = run(recipe_file, "second", resume=first / "checkpoints" / "step-00000004.pt")
    assert load_recipe(second / "recipe.toml") == load_recipe(recipe_file).with_defaults(Defaults())
    assert [line["step"] for line in metrics(second, "train")] == [5, 6]
    assert_close(first, second, tolerance=0)


def test_epochs_are_passes_over_the_unlabeled_images(recipe_file):
    text = recipe_file.read_text().replace("steps = 6", "epochs = 2")
    recipe_file.write_text(text)
    folder = run(recipe_file, "run")  # 8 unlabeled images, 4 a step
    assert [line["step"] for line in metrics(folder, "train")] == [1, 2, 3, 4]
