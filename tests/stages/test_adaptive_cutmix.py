"""CutMix with labeled images where the teacher is unsure."""

from dataclasses import replace

import numpy as np
import oracles
import positions
import pytest
import torch

from farcluss.stages.base import Scene, View
from farcluss.stages.mix import AdaptiveCutMix, confidences
from farcluss.stages.mixing import partners, placed
from farcluss.tensors.draws import addressed
from farcluss.tensors.entropy import normalized_entropy
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


@pytest.mark.parametrize("size", [(12, 10), (6, 5, 7)])
@pytest.mark.parametrize("partner", ["previous", "reverse", "random"])
def test_pixels_come_from_the_image_its_partner_or_the_labeled_image_of_that(partner, size):
    """Every pixel keeps its place and its labels. First boxes are in copies, from which second ones are filled."""
    count, pixels = 5, int(np.prod(size))
    numbers = torch.arange(count * pixels).view(count, *size)
    sure = numbers / (count * pixels)
    labels = replace(positions.labels(count, size), confidence=sure, entropy=torch.full((count, *size), 0.5))
    weak, marked = (torch.stack([numbers, flag + 0 * numbers], 1).float() for flag in (0, 1))
    known = torch.from_numpy(np.random.default_rng(0).random((count, *size)) < 0.8)
    scene, origins = Scene(View(weak, labels), marked, (numbers % 5).to(torch.uint8), known, 7), set()
    own = torch.arange(count).view(-1, *[1] * len(size))
    for step in range(30):
        with addressed(5, step):
            move = partners(partner, count)
        with addressed(5, step):
            images, found = AdaptiveCutMix(partner=partner)(scene.weak, scene)[:2]
        number, pasted = images[:, 0].long(), images[:, 1] == 1
        image, other = number // pixels, move(own)
        assert (number % pixels == torch.arange(pixels).view(size)).all()
        assert torch.where(pasted, image == move(other), (image == own) | (image == other)).all()
        wanted = {"labeled": pasted, "own": ~pasted & (image == own), "partner": ~pasted & (image == other)}
        origins |= {name for name, where in wanted.items() if where.any()}
        assert torch.equal(found.valid, ~pasted | known.flatten()[number])
        assert torch.equal(found.confidence, torch.where(pasted, 1.0, number / (count * pixels)))
        assert torch.equal(found.entropy, torch.where(pasted, 0.0, 0.5))
        assert torch.equal(found.classes[:, 0][found.valid], torch.where(pasted, number % 5, number % 7)[found.valid])
    assert origins == {"labeled", "own", "partner"}


def test_each_image_has_the_chance_of_its_own_confidence():
    """With boxes over half of each side, which all hold the middle: certain, of no use, and one half, of 300 images."""
    count, size = 300, (5, 5)
    images, labels = torch.zeros(count, 3, *size), positions.labels(count, size)
    sure = torch.tensor([1.0, 0.0, 0.5]).repeat(count // 3).view(-1, 1, 1).expand(-1, *size).contiguous()
    view = View(images, replace(labels, confidence=sure, entropy=torch.zeros_like(sure)))
    scene = positions.scene(images, labels)._replace(weak=view, images=torch.ones_like(images))
    with addressed(0, 0):
        stage = AdaptiveCutMix(labeled=(1.0, 1e6), unlabeled=(1.0, 1e6), partner="previous")
        found = stage(view, scene).images[:, 0, 2, 2].roll(-1)  # each image as the next one has it
    assert (found[::3] == 0).all() and (found[1::3] == 1).all() and found[2::3].mean() == pytest.approx(0.5, abs=0.15)


def test_first_boxes_are_one_fifth_of_the_image():
    """On average, before the border cuts them: 1 - lambda, of Beta(8, 2)."""
    torch.manual_seed(0)
    shares = []
    for _ in range(400):
        first, last = AdaptiveCutMix().labeled.edges(50, 2, torch.device("cpu"))
        shares.append(float((last - first).max()) ** 2)  # the largest of many sides is not cut
    assert np.mean(shares) == pytest.approx(0.2, abs=4 * 0.121 / 20)  # of a standard deviation of .121
