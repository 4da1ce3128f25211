"""A step whose loss or gradient is not finite leaves no trace but in the log; too many of them end the run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from registered import registered
from tiny_network import TinyNetwork

from farcluss.errors import FarclussError
from farcluss.recipes.reading import load_recipe
from farcluss.runs.checkpoints import read
from farcluss.runs.folder import RunFolder
from farcluss.stages.base import PseudoLabels
from farcluss.stages.weight import Uniform
from farcluss.training import engine, steps

RECIPE = """
[data]
layout = { name = "shapes", train = 12, val = 1, size = 32 }
labeled = "4/12"
val = "none"
crop = 32
workers = 0
[network]
name = "tiny"
norm = true
[stages]
contrast = { name = "prototype", dim = 4 }
[train]
steps = 8
batch = 2
lr = 0.01
log_every = 1
checkpoint_every = 1
keep_checkpoints = 9
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    with registered("network", "tiny", TinyNetwork):
        yield path


def train(recipe_file, *settings, **options) -> Path:
    return engine.train(load_recipe(recipe_file, (), settings), recipe_file.parent / "run", **options)


def lines(folder: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def leaves(value, path="") -> dict[str, torch.Tensor]:
    """All tensors of nested values by path."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: leaf for name, inner in pairs for key, leaf in leaves(inner, f"{path}.{name}").items()}


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return leaves(read(folder / "checkpoints" / f"step-{step:08d}.pt").state)


def break_images(monkeypatch, *numbers):
    """Labeled images of some steps, counted from 1, hold a NaN."""
    original = steps.to_device

    def to_device(host, device, semi, logging):
        batch = original(host, device, semi, logging)
        counter[0] += 1
        if counter[0] in numbers:
            batch.images[0, 0, 5, 5] = torch.nan
        return batch

    counter = [0]
    monkeypatch.setattr(steps, "to_device", to_device)


def break_losses(monkeypatch, *numbers):
    """The unsupervised loss of some steps is infinite, its gradient is not."""
    original = engine.Learner.losses

    def losses(self, *arguments):
        found = original(self, *arguments)
        counter[0] += 1
        if counter[0] in numbers:
            found["unsupervised"] = found["unsupervised"] + math.inf
        return found

    counter = [0]
    monkeypatch.setattr(engine.Learner, "losses", losses)


def break_gradients(monkeypatch, *numbers):
    """The gradient of some steps is infinite in one place, no loss is."""
    original = engine.Accelerator.backward

    def backward(self, loss):
        original(self, loss)
        counter[0] += 1
        if counter[0] in numbers:
            gradient = next(p for g in made[-1].optimizer.param_groups for p in g["params"]).grad
            gradient[(0,) * gradient.dim()] = math.inf

    counter, made, prepare = [0], [], engine.prepare
    monkeypatch.setattr(engine, "prepare", lambda *arguments: made.append(prepare(*arguments)) or made[-1])
    monkeypatch.setattr(engine.Accelerator, "backward", backward)


BREAKS = {"supervised": break_images, "unsupervised": break_losses, "gradient": break_gradients}


SETTINGS = {"sgd": [], "adamw": ["train.optimizer=adamw"], "ohem": ["loss.supervised=ohem", "loss.ohem_min_kept=200"]}


# What is mined of the labeled pixels matters where they are broken.
CASES = [(part, name) for part in BREAKS for name in SETTINGS if name != "ohem" or part == "supervised"]


@pytest.mark.parametrize(("part", "settings"), CASES)
def test_a_broken_step_changes_nothing(recipe_file, monkeypatch, part, settings):
    BREAKS[part](monkeypatch, 1, 4, 5)
    folder = train(recipe_file, "train.steps=6", *SETTINGS[settings])
    states = {step: state(folder, step) for step in range(1, 7)}
    for step in range(2, 7):
        same = all(torch.equal(states[step][name], states[step - 1][name]) for name in states[step])
        assert same == (step in (4, 5)), step
    assert all(torch.isfinite(value).all() for value in states[6].values() if value.is_floating_point())
    skips = [(line["step"], line["parts"]) for line in lines(folder, "skip")]
    assert [step for step, _ in skips] == [1, 4, 5]
    assert all(part in parts for _, parts in skips)
    if part != "supervised":  # NaN images break both losses: batch norm mixes them
        assert all(parts == [part] for _, parts in skips)
    assert [line["skipped_steps"] for line in lines(folder, "train")] == [1, 1, 1, 2, 3, 3]


def test_a_broken_first_step_leaves_the_start(recipe_file, monkeypatch):
    """Weights, momentum and the teacher of a first step that is skipped are those before any step."""
    before = {}
    original = engine.prepare

    def prepare(*arguments):
        run = original(*arguments)
        before.update({f".{who}.{k}": v.clone() for who, n in run.networks.items() for k, v in n.state_dict().items()})
        return run

    monkeypatch.setattr(engine, "prepare", prepare)
    break_images(monkeypatch, 1)
    with pytest.raises(FarclussError, match="1 of 1 steps were skipped"):
        train(recipe_file, "train.steps=1")
    after = state(recipe_file.parent / "run", 1)
    assert before and all(torch.equal(after[name], value) for name, value in before.items())
    momentum = [value for name, value in after.items() if "momentum_buffer" in name]
    assert momentum and all(not value.any() for value in momentum)


def test_steps_after_it_are_those_of_a_run_without_it(recipe_file, monkeypatch):
    """Where nothing is a function of the step but the images, a skipped step is one that has not been."""
    settings = ["train.power=1e-9", "train.ema=0.0", "stages.augment=identity", "train.steps=4"]
    original = engine.PairedCrops.__getitem__

    def shifted(self, address):  # steps 1, 2, 3 of the other run are steps 1, 3, 4 of the broken one
        return original(self, address._replace(step=address.step + (address.step >= 1)))

    monkeypatch.setattr(engine.PairedCrops, "__getitem__", shifted)
    expected = state(train(recipe_file, *settings), 3)
    monkeypatch.setattr(engine.PairedCrops, "__getitem__", original)
    break_images(monkeypatch, 2)
    found = state(train(recipe_file, *settings, overwrite=True), 4)
    for name in expected:
        if ".student" in name or "momentum" in name:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_in_pieces_too(recipe_file, monkeypatch):
    break_gradients(monkeypatch, 3)  # the first of the two micro-batches of the second step
    folder = train(recipe_file, "train.accumulate=2", "train.steps=3")
    states = [state(folder, step) for step in (1, 2, 3)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[1][name], states[2][name]) for name in states[0])


def test_mining_in_micro_batches_too(recipe_file, monkeypatch):
    break_images(monkeypatch, 2)
    folder = train(recipe_file, *SETTINGS["ohem"], "train.accumulate=2", "train.steps=3")
    states = [state(folder, step) for step in (1, 2, 3)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[1][name], states[2][name]) for name in states[0])


class Adaptive(Uniform):
    """A stage with a state: sums of what it has seen of unlabeled and of labeled images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def statistics(self, labels: PseudoLabels, classes: int) -> torch.Tensor:
        return labels.confidence.sum()

    def absorb(self, summed: torch.Tensor) -> None:
        self.seen[0] += summed

    def labeled_statistics(self, logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return known.sum()

    def absorb_labeled(self, summed: torch.Tensor) -> None:
        self.seen[1] += summed


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_state_of_stages_stays_too(recipe_file, monkeypatch, micro_batches):
    break_images(monkeypatch, 2)
    with registered("weight", "adaptive", Adaptive):
        folder = train(recipe_file, "stages.weight=adaptive", "train.steps=3", f"train.accumulate={micro_batches}")
    states = [read(folder / "checkpoints" / f"step-{n:08d}.pt").state["stages"]["weight"] for n in (1, 2, 3)]
    one, two, three = (state["seen"] for state in states)
    assert (one > 0).all() and torch.equal(one, two) and (two < three).all()
    assert list(states[0]) == ["seen"]  # not the progress, which is a function of the step


def test_too_many_in_a_row_end_the_run(recipe_file, monkeypatch):
    hosts = []
    original = engine.one_step
    monkeypatch.setattr(engine, "one_step", lambda run, host, *rest: hosts.append(host) or original(run, host, *rest))
    break_images(monkeypatch, 2, 3, 5, 6, 7)
    with pytest.raises(FarclussError) as caught:
        train(recipe_file, "train.max_skipped=3", "train.log_every=100")
    text = str(caught.value)
    assert len(text.splitlines()) <= 3
    assert "The supervised loss" in text and "of 3 steps in a row, up to step 7, were not finite" in text
    path = recipe_file.parent / "run" / "broken" / "step-00000007-rank-0.npz"
    assert str(path) in text
    assert all(name in text for name in hosts[-1].ids) and len(hosts[-1].ids) == 4
    with np.load(path, allow_pickle=False) as found:
        assert found["ids"].tolist() == hosts[-1].ids
        np.testing.assert_array_equal(found["images"], hosts[-1].images.numpy())
        np.testing.assert_array_equal(found["masks"], hosts[-1].masks.numpy())
    newest = RunFolder(recipe_file.parent / "run").checkpoint(6)
    assert read(newest).manifest.progress["skipped_in_row"] == 2


def test_the_count_goes_on_after_a_resume(recipe_file, monkeypatch):
    break_images(monkeypatch, 3, 4, 5)
    with pytest.raises(FarclussError, match=r"of 3 steps in a row, up to step 5"):
        train(recipe_file, "train.max_skipped=3")
    monkeypatch.undo()
    break_images(monkeypatch, 1, 2, 3)  # steps 5, 6, 7 of the run, which goes on after step 4
    with pytest.raises(FarclussError, match=r"of 4 steps in a row, up to step 6"):
        train(recipe_file, "train.max_skipped=4", resume="newest")


def test_a_run_that_diverges_stops(recipe_file):
    with pytest.raises(FarclussError, match=r"of 5 steps in a row, up to step \d, were not finite") as caught:
        train(recipe_file, "train.lr=1e30", "train.max_skipped=5")
    assert "train.lr" in str(caught.value)
    for line in (recipe_file.parent / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
