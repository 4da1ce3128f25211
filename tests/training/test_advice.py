"""Warnings of how a run goes: each has its reason and a remedy, comes once, and not without reason."""

import json

import pytest
import torch

from farcluss import load_recipe, train
from farcluss.data.loader import HostBatch
from farcluss.errors import DataError
from farcluss.recipes.model import Recipe
from farcluss.training.advice import LOOKED_AT, RECENT, Advisor

FINE = {"histogram": [0.6, 0.3, 0.1], "mean_weight": 0.6, "class_weights": [0.5, 1.0, 3.0], "bounded_classes": 0,
        "prototype_cosine": 0.1}  # fmt: skip


def advisor(**loss):
    recipe = Recipe.model_validate({"train": {"steps": 100}, "loss": {"warmup_steps": 10, "ramp_steps": 10, **loss}})
    found = Advisor(recipe, ["sky", "road", "pole"])
    found.labeled = torch.tensor([60, 30, 10])
    return found


def told(values, steps=range(30, 30 + RECENT), **loss):
    """What is said after enough logged steps with the same figures."""
    watching = advisor(**loss)
    return [text for step in steps for text in watching.logged(step, FINE | values)]


def test_nothing_is_said_of_a_run_that_goes_well():
    assert told({}) == [] and told({}, range(30, 90)) == []
    assert advisor().logged(50, {"supervised": 1.0}) == []  # before unlabeled images are used


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mean_weight": 0.01}, "hardly anything is learned from them"),
        ({"mean_weight": 0.99}, "leaves out nothing"),
        ({"bounded_classes": 2}, "class weights are at their bound, that of pole first"),
        ({"histogram": [0.7, 0.3, 0.0]}, "no pseudo-label is pole any more, though labels are"),
        ({"histogram": [1.0, 0.0, 0.0]}, "no pseudo-label is road, pole any more"),
        ({"histogram": [0.05, 0.2, 0.75]}, "pole is 75 % of them, 10 % of the labels"),
        ({"prototype_cosine": 0.99}, "prototypes of the classes point one way"),
    ],
)
def test_a_reason_is_told_once_with_a_remedy(values, said):
    found = told(values, range(30, 90))
    assert len(found) == 1 and said in found[0]
    assert any(word in found[0] for word in ("Lower", "Warm up", "warm up", "label more"))


def test_a_single_step_is_no_reason():
    watching = advisor()
    odd = FINE | {"mean_weight": 0.0, "histogram": [1.0, 0.0, 0.0]}
    assert [watching.logged(step, odd if step % RECENT else FINE) for step in range(25, 80)] == [[]] * 55


def test_early_steps_are_no_reason():
    assert told({"mean_weight": 0.0}, range(1, 20)) == []
    assert told({"prototype_cosine": 0.99}, contrastive=0.0) == []


def test_what_labels_lack_does_not_vanish():
    watching = advisor()
    watching.labeled = torch.tensor([60, 40, 0])
    values = FINE | {"histogram": [0.6, 0.4, 0.0]}
    assert [text for step in range(30, 40) for text in watching.logged(step, values)] == []


def test_a_teacher_behind_twice_in_a_row():
    watching = advisor()
    scores = [(0.5, 0.4), (0.4, 0.5), (0.5, 0.49), (0.4, 0.5), (0.4, 0.46), (0.4, 0.5)]
    said = [watching.scored({"teacher_miou": t, "student_miou": s}) for t, s in scores]
    assert [bool(each) for each in said] == [False, False, False, False, True, False]
    assert "6.0 points" in said[4][0] and "1,000 steps back" in said[4][0] and "train.ema" in said[4][0]


def batch(labeled, unlabeled, shift=0, channels=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    bright = torch.randint(60, 140, (labeled + unlabeled, 1, 1, 1), generator=rng)
    images = (bright + torch.randint(0, 40, (labeled + unlabeled, channels, 8, 8), generator=rng)).to(torch.uint8)
    images[labeled:, 1] += shift
    masks = torch.zeros(labeled + unlabeled, 8, 8, dtype=torch.uint8)
    return HostBatch(images, masks, masks == 0, labeled, ("",) * (labeled + unlabeled), ())


@pytest.mark.parametrize("shift", [0, 70])
def test_images_of_another_kind(shift):
    watching = advisor()
    said = [text for step in range(2 * LOOKED_AT) for text in watching.look(batch(2, 2, shift, seed=step))]
    assert len(said) == bool(shift)
    assert not shift or ("channel 1 is" in said[0] and "standard deviations of images" in said[0])
    assert watching.labeled.tolist()[0] >= LOOKED_AT * 2 * 64


def test_a_run_tells_it_and_watches_its_probe(tiny_recipe, tmp_path):
    settings = ["data.probe=1", "train.steps=4", "eval.every=2", "loss.warmup_steps=0"]
    folder = train(load_recipe(tiny_recipe, settings=settings), tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "probe"]
    assert [line["step"] for line in found] == [2, 4]
    assert 0 <= found[0]["accuracy"] <= 1 and 0 <= found[0]["ece"] <= 1
    assert set(found[0]["recall"]) == {"ground", "disk", "bar", "tile", "ring", "star"}
    log = (folder / "log.txt").read_text()
    assert "step 4: teacher on 1 held-back image:" in log and "lowest recall" in log
    own = (folder / "lists" / "probe.txt").read_text().splitlines()
    labeled, unlabeled = (
        (folder / "lists" / f"{name}.txt").read_text().splitlines() for name in ("labeled", "unlabeled")
    )
    assert len(own) == 1 and own[0] in unlabeled and own[0] not in labeled and (len(labeled), len(unlabeled)) == (3, 9)


def test_a_probe_needs_labeled_images_left(tiny_recipe, tmp_path):
    with pytest.raises(DataError, match=r"data.probe = 4 would leave no labeled image of 4"):
        train(load_recipe(tiny_recipe, settings=["data.probe=4"]), tmp_path / "run")
