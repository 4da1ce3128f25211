"""Aligned pseudo-labels against a plain loop and known numbers."""

import numpy as np
import pytest
import torch

from farcluss.stages.alignment import Aligned
from farcluss.testing import PseudoLabelTester

C = 5


class TestAligned(PseudoLabelTester):
    stage = Aligned
    options = {"top_k": 2}


def column(*values):
    return torch.tensor(values).view(1, -1, 1, 1)


def test_known_numbers():
    stage = Aligned()
    stage.labeled[:3], stage.unlabeled[:3] = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.9, 0.4, 0.7])
    aligned = stage.align(column(0.6, 0.3, 0.1))
    torch.testing.assert_close(aligned, column(0.461538, 0.461538, 0.076923), rtol=1e-5, atol=0)


def test_at_the_start_nothing_changes():
    probs = torch.rand(2, C, 3, 4).softmax(1)
    torch.testing.assert_close(Aligned().align(probs), probs)


def drawn(step, space):
    """Probabilities of four images, and which pixels count; some classes are never predicted."""
    rng = np.random.default_rng(step)
    logits = rng.normal(0, 2, (4, C, *space)) + np.array([1, 0.5, 0, -1, -50]).reshape(-1, *[1] * len(space))
    exp = np.exp(logits)
    return exp / exp.sum(1, keepdims=True), rng.random((4, *space)) < 0.7


def averaged(state, probs, valid, momentum):
    """The plain loop over classes."""
    confidence, classes = probs.max(1)[valid], probs.argmax(1)[valid]
    for c in np.unique(classes):
        state[c] = momentum * state[c] + (1 - momentum) * confidence[classes == c].mean()


@pytest.mark.parametrize("space", [(6, 7), (3, 4, 5)])
@pytest.mark.parametrize("parts", [1, 4])
def test_averages_are_a_plain_loop(parts, space):
    stage, momentum = Aligned(momentum=0.9), 0.9
    states = [np.full(C, 1 / C), np.full(C, 1 / C)]
    for step in range(50):
        for number, state in enumerate(states):
            probs, valid = drawn(2 * step + number, space)
            averaged(state, probs, valid, momentum)
            chunks = torch.from_numpy(probs).chunk(parts), torch.from_numpy(valid).chunk(parts)
            if number:
                masks = torch.zeros(4 // parts, *space)  # which class a pixel is of does not matter
                found = [stage.labeled_statistics(p.log(), masks, v) for p, v in zip(*chunks, strict=True)]
                stage.absorb_labeled(sum(found))
            else:
                stage.absorb(sum(stage.statistics(p, v) for p, v in zip(*chunks, strict=True)))
    probs, _ = drawn(1000, space)
    wanted = probs * (states[1] / states[0]).reshape(-1, *[1] * len(space))
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(stage.align(torch.from_numpy(probs)).numpy(), wanted, rtol=1e-5)
    assert states[0][4] == 1 / C and not np.allclose(wanted, probs, rtol=1e-3)
