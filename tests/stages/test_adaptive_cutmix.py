"""CutMix with labeled images where the teacher is unsure."""

from dataclasses import replace

import numpy as np
import oracles
import positions
import pytest
import torch

from farcluss.stages.base import View
from farcluss.stages.mix import AdaptiveCutMix, confidences
from farcluss.stages.mixing import placed
from farcluss.stages.weight import normalized_entropy
from farcluss.testing import MixTester

SIZE = (12, 10)


class TestAdaptiveCutMix(MixTester):
    stage = AdaptiveCutMix


def test_confidences_of_known_numbers():
    probs = torch.tensor([[0.9, 0.5], [0.1, 0.5]]).view(1, 2, 1, 2)
    labels = replace(oracles.labels_of(probs, 1), entropy=normalized_entropy(probs))
    labels = replace(labels, valid=torch.ones(1, 1, 2, dtype=torch.bool))
    assert confidences(labels).item() == pytest.approx(0.238952, abs=1e-6)
    first = replace(labels, valid=torch.tensor([[[True, False]]]))  # only valid pixels count
    assert confidences(first).item() == pytest.approx(0.9 * (1 - normalized_entropy(probs)[0, 0, 0].item()))
    assert confidences(replace(labels, valid=labels.valid & False)) == 0


def mixed(entropy, confidence, seed=0, known=True, **options):
    """A mixed view of four images whose labeled ones are of class 6 and value 2."""
    torch.manual_seed(seed)
    images, labels = positions.images(4, SIZE), positions.labels(4, SIZE)
    labels = replace(labels, entropy=torch.full((4, *SIZE), entropy), confidence=torch.full((4, *SIZE), confidence))
    scene = positions.scene(images, labels)
    masks = torch.full((4, *SIZE), 6, dtype=torch.uint8)
    scene = scene._replace(images=torch.full_like(images, 2), masks=masks, known=torch.full_like(scene.known, known))
    return AdaptiveCutMix(partner="previous", **options)(View(images, labels), scene), images, labels


def test_images_of_which_the_teacher_is_sure_get_nothing_labeled():
    for seed in range(10):
        view, images, labels = mixed(0.0, 1.0, seed)
        assert (view.images <= 1).all() and not torch.equal(view.images, images)
        moved = (view.images != images)[:, :1]
        assert torch.equal(view.images, torch.where(moved, images.roll(1, 0), images))
        assert torch.equal(view.labels.classes, torch.where(moved, labels.classes.roll(1, 0), labels.classes))


def test_boxes_of_others_hold_boxes_of_labeled_images():
    """Whose labels are the masks, with a confidence of 1 and an entropy of 0. The second boxes are large here."""
    found = []
    for seed in range(20):
        view, images, _ = mixed(1.0, 0.5, seed, unlabeled=(1.0, 1e6))
        pasted = view.images[:, 0] == 2
        found.append(pasted.flatten(1).any(1))
        assert (view.labels.classes[:, 0][pasted] == 6).all() and (view.labels.confidence[pasted] == 1).all()
        assert (view.labels.entropy[pasted] == 0).all() and (view.labels.confidence[~pasted] == 0.5).all()
        others = images.roll(1, 0)
        kept = (view.images == images) | (view.images == others)
        assert (kept[:, 0] | pasted).all()  # of two images and a labeled one, nothing else
    assert torch.cat(found).double().mean() > 0.6


def test_ignored_pixels_of_masks_become_invalid():
    view, _, _ = mixed(1.0, 0.5, known=False)
    pasted = view.images[:, 0] == 2
    assert pasted.any() and torch.equal(view.labels.valid, ~pasted)


def test_boxes_have_equal_sides_unless_the_border_cuts_them():
    """Published numbers: sides of 0.4472 for lambda 0.8, of 0.7071 for 0.5."""
    torch.manual_seed(0)
    for share, side in ((0.8, 0.4472136), (0.5, 0.7071068)):
        first, last = placed(2000, 2, (1 - share) ** 0.5, torch.device("cpu"))
        lengths = (last - first).numpy()
        np.testing.assert_allclose(lengths.max(0), side, rtol=1e-5)
        whole = 1 - side  # of the centers, on each axis
        np.testing.assert_allclose((lengths > side - 1e-5).mean(0), whole, atol=0.05)
