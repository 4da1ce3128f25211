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
@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_averages_are_a_plain_loop(momentum, parts, space):
    stage = Aligned(momentum=momentum)
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


@pytest.mark.parametrize("kind", ["labeled", "unlabeled"])
def test_only_classes_that_were_predicted_change(kind):
    """Class 4 has never been predicted: its ratio is 1, whatever the others' are. Class 5 does not exist."""
    stage = Aligned()
    for step in range(5):
        probs, valid = (torch.from_numpy(each) for each in drawn(step, (6, 7)))
        if kind == "labeled":
            stage.absorb_labeled(stage.labeled_statistics(probs.log(), torch.zeros(4, 6, 7), valid))
        else:
            stage.absorb(stage.statistics(probs, valid))
    moved = getattr(stage, kind)
    other = stage.unlabeled if kind == "labeled" else stage.labeled
    assert (moved[:4] > 1 / C).all() and (moved[4:] == 0).all() and (other == 0).all()
    aligned = stage.align(torch.full((1, C, 1, 1), 1 / C)).flatten()
    ratios = (moved[:4] * C) ** (1 if kind == "labeled" else -1)
    torch.testing.assert_close(aligned[:4] / aligned[4], ratios)


def test_invalid_pixels_do_not_matter():
    stage = Aligned()
    probs, valid = (torch.from_numpy(each) for each in drawn(0, (6, 7)))
    other = torch.where(valid.unsqueeze(1), probs, probs.flip(1))
    for found, wanted in (
        (stage.statistics(other, valid), stage.statistics(probs, valid)),
        (
            stage.labeled_statistics(other.log(), torch.full((4, 6, 7), 255), valid),
            stage.labeled_statistics(probs.log(), torch.zeros(4, 6, 7), valid),
        ),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    stage.absorb(stage.statistics(probs, valid & False))  # no pixel, no change
    assert (stage.unlabeled == 0).all()


def test_volumes_are_aligned_as_images_are():
    image, volume = Aligned(), Aligned()
    probs, valid = (torch.from_numpy(each).float() for each in drawn(0, (6, 7)))
    for stage, given, known in ((image, probs, valid.bool()), (volume, probs.unsqueeze(2), valid.bool().unsqueeze(1))):
        stage.absorb(stage.statistics(given, known))
        stage.absorb_labeled(stage.labeled_statistics(given.flip(-1).log() * 2, known.long(), known))
    assert torch.equal(volume.align(probs.unsqueeze(2)).squeeze(2), image.align(probs))
    assert not torch.allclose(image.align(probs), probs)


def test_the_state_is_in_buffers():
    stage, copy = Aligned(), Aligned()
    probs, valid = (torch.from_numpy(each) for each in drawn(0, (6, 7)))
    stage.absorb(stage.statistics(probs, valid))
    copy.load_state_dict(stage.state_dict())
    assert torch.equal(copy.align(probs), stage.align(probs)) and not torch.equal(copy.align(probs), probs)
