"""Spans of a step: exclusive seconds, by a clock that the test turns."""

import pytest
import torch

from farcluss import train
from farcluss.recipes.reading import load_recipe
from farcluss.tensors import timing
from farcluss.tensors.timing import Stopwatch, span
from farcluss.training import engine

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_time_goes_to_the_innermost_span():
    clock = Clock()
    clock.now = 5.0
    with Stopwatch(CPU, clock) as watch:
        clock.now += 1
        with span("outer"):
            clock.now += 10
            with span("inner"):
                clock.now += 100
            clock.now += 20
        with span("inner"):
            clock.now += 200
        clock.now += 2
    clock.now += 1000
    assert watch.seconds == {"other": 3, "outer": 30, "inner": 300}


def test_a_span_ends_by_an_error_too():
    clock = Clock()
    with pytest.raises(ZeroDivisionError), Stopwatch(CPU, clock) as watch, span("bad"):
        clock.now += 1
        1 / 0  # noqa: B018
    assert watch.seconds == {"bad": 1, "other": 0}
    assert timing._listener is None
    with span("unheard"):
        clock.now += 1
    assert "unheard" not in watch.seconds


def test_a_step_has_a_span_for_each_of_its_parts(quick_recipe, tmp_path, monkeypatch):
    watches = []
    original = engine.one_step

    def one_step(*arguments):
        with Stopwatch(CPU) as watch:
            step = original(*arguments)
        watches.append(watch)
        return step

    monkeypatch.setattr(engine, "one_step", one_step)
    train(load_recipe(quick_recipe, (), ["data.val=none"]), tmp_path / "run")
    network = {"copy", "student", "losses", "backward", "optimizer", "ema", "other"}
    stages = {"augment", "mix", "perturb", "teacher", "pseudo_label", "weight", "rebalance", "contrast"}
    assert [set(watch.seconds) for watch in watches] == [network | stages] * 2
    assert all(seconds >= 0 for watch in watches for seconds in watch.seconds.values())


def test_the_first_of_two_forwards_is_the_first_pass(quick_recipe, tmp_path, monkeypatch):
    """With micro-batches, each goes through the student twice: to be looked at, and to learn."""
    seen, original = [], engine.one_step

    def one_step(run, *rest):
        hook = run.networks["student"].register_forward_hook(lambda *_: seen.append(timing._listener._names[-1]))
        with Stopwatch(CPU):
            step = original(run, *rest)
        hook.remove()
        return step

    monkeypatch.setattr(engine, "one_step", one_step)
    train(load_recipe(quick_recipe, (), ["data.val=none", "train.steps=1", "train.accumulate=2"]), tmp_path / "run")
    assert seen == ["first_pass", "first_pass", "student", "student"]
