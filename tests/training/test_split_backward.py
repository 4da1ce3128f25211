"""`train.split_backward` needs less memory; that it changes no gradient is shown in `test_devices`."""

import memory
import pytest

from farcluss import train
from farcluss.recipes.reading import load_recipe
from farcluss.training import engine


@pytest.fixture
def peak_of_a_step(tiny_recipe, tmp_path, monkeypatch):
    """The most bytes that a step of the tiny recipe needs above what it finds, with some settings."""

    def run(*settings):
        peaks = []
        original = engine.one_step

        def one_step(*arguments):
            highest, step = memory.peak(lambda: original(*arguments))
            peaks.append(highest)
            return step

        with monkeypatch.context() as patch:
            patch.setattr(engine, "one_step", one_step)
            given = ["data.val=none", "data.crop=128", "stages.augment=identity", "train.log_every=9", *settings]
            train(load_recipe(tiny_recipe, (), given), tmp_path / str(len(list(tmp_path.iterdir()))))
        return peaks[-1]  # the first one makes the gradients

    return run


def test_a_step_needs_less_memory(peak_of_a_step):
    """The labeled graph is gone before the unlabeled one is built: only the larger of two equal halves is in the peak.

    Twice as many labeled images would be seen there.
    """
    joint, apart = (peak_of_a_step(f"train.split_backward={value}", "train.batch=4") for value in ("false", "true"))
    alone = peak_of_a_step("train.batch=4", "loss.unsupervised=0", "loss.contrastive=0")
    assert apart < 0.6 * joint and apart < 1.3 * alone
