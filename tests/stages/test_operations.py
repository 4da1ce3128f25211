"""Random operations against Pillow; agreement of student and teacher against a plain loop and known numbers."""

import numpy as np
import positions
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from farcluss.errors import PluginError
from farcluss.stages.base import PseudoLabels, Scene, View
from farcluss.stages.operations import OPERATIONS, ByAgreement, RandomOperations, agreement
from farcluss.tensors.draws import addressed
from farcluss.testing import AugmentTester

PILLOW = {
    "identity": lambda image: image,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.4),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(0.4),
    "color": lambda image: ImageEnhance.Color(image).enhance(0.4),
    "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(0.4),
    "posterize": lambda image: ImageOps.posterize(image, 6),
    "solarize": lambda image: ImageOps.solarize(image, 255 * 0.5),
    "invert": ImageOps.invert,
}


class TestRandomOperations(AugmentTester):
    stage = RandomOperations
    options = {"views": 2, "invert": True}
    dims = (2,)


def picture(size=(20, 24)):
    """A smooth RGB image with some noise, 8-bit, not over the full range."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(size[0]) * 5.0, np.arange(size[1]) * 2.0)
    return np.stack([40 + ramp, 200 - ramp, 60 + ramp / 2], 2).clip(20, 230).astype(np.uint8) + rng.integers(
        0, 9, (*size, 3), dtype=np.uint8
    )


@pytest.mark.parametrize("name", PILLOW)
def test_operations_are_those_of_pillow(name):
    image = torch.from_numpy(picture()).movedim(-1, 0) / 255
    found = (OPERATIONS[name](image, 0.5, 0.4) * 255).movedim(0, -1).numpy()
    wanted = np.asarray(PILLOW[name](Image.fromarray(picture()))).astype(float)
    assert np.abs(found - wanted).max() <= {"posterize": 4.0}.get(name, 1.6)  # Pillow rounds to 8 bits in between


def test_blur_and_hue():
    image = torch.from_numpy(picture()).movedim(-1, 0) / 255
    blurred = OPERATIONS["blur"](image, 1.0, 0.4)
    assert blurred.diff(dim=2).abs().mean() < 0.7 * image.diff(dim=2).abs().mean()
    assert (blurred.mean((1, 2)) - image.mean((1, 2))).abs().max() < 0.02
    turned = OPERATIONS["hue"](image, 0.9, 0.4)
    for extreme in (torch.amax, torch.amin):  # value and chroma stay
        torch.testing.assert_close(extreme(turned, 0), extreme(image, 0), atol=0.01, rtol=0)
    torch.testing.assert_close(OPERATIONS["hue"](image, 0.5, 0.4), image, atol=0.01, rtol=0)


def test_plans_hold_as_many_operations_as_they_may():
    torch.manual_seed(0)
    plans = RandomOperations(fewest=2, most=4).plans(300)
    assert {len(plan) for plan in plans} == {2, 3, 4}
    assert {name for plan in plans for name, _ in plan} == OPERATIONS.keys() - {"invert"}
    strengths = [strength for plan in plans for _, strength in plan]
    np.testing.assert_allclose(np.quantile(strengths, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05)


def test_processes_draw_as_one_does():
    images, stage = torch.rand(4, 3, 16, 16), RandomOperations()
    with addressed(1, 2):
        whole = stage.images(images)
    for rank in range(2):
        with addressed(1, 2, rank, 2):
            assert torch.equal(stage.images(images[2 * rank : 2 * rank + 2]), whole[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 6, 16), (2, 3, 16, 16, 16)])
def test_other_images_are_refused(shape):
    with pytest.raises(PluginError, match=r'Set stages\.augment = "intensity"'):
        RandomOperations().images(torch.rand(shape))


def test_more_than_the_most():
    with pytest.raises(PluginError, match="fewest = 3 is more than most = 2"):
        RandomOperations(fewest=3, most=2)


def labels(classes, confidence, valid=None):
    """Hard labels of classes `(B, N)`."""
    classes = torch.as_tensor(classes)
    sure = torch.as_tensor(confidence, dtype=torch.float32).expand(classes.shape)
    valid = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid
    ones = torch.ones_like(sure)
    return PseudoLabels(ones[:, None, None], classes[:, None, None], sure[:, None], ones[:, None], valid[:, None])


def test_agreement_of_known_numbers():
    student = labels([[0, 1, 1, 2]], [[0.99, 0.99, 0.5, 0.5]])  # sure of one half
    teacher = labels([[0, 1, 2, 2]], [[0.99, 0.99, 0.99, 0.5]])  # sure of three quarters
    assert agreement(student, teacher, 0.95, 3).item() == pytest.approx(0.3125)


def weighted(a, b, classes):
    """IoU of two maps, of each class but the first, weighted by its pixels in the second: a plain loop."""
    found, mass = 0.0, 0
    for c in range(1, classes):
        if union := ((a == c) | (b == c)).sum():
            found, mass = found + ((a == c) & (b == c)).sum() / union * (b == c).sum(), mass + (b == c).sum()
    return found / mass if mass else 0.0


@pytest.mark.parametrize("c", [2, 5])
def test_agreement_is_a_plain_loop(c):
    rng = np.random.default_rng(0)
    student, teacher = rng.integers(0, c, (2, 6, 40))
    student[0] = teacher[0]
    teacher[1] = 0  # no foreground
    sure = rng.random((2, 6, 40)).astype(np.float32)
    valid = rng.random((6, 40)) < 0.7
    given = [labels(k, s, torch.from_numpy(valid)) for k, s in zip((student, teacher), sure, strict=True)]
    found = agreement(*given, 0.4, c)
    for b in range(6):
        s, t, (of_s, of_t) = student[b][valid[b]], teacher[b][valid[b]], sure[:, b][:, valid[b]]
        wanted = ((of_t >= 0.4).mean() * weighted(s, t, c) + (of_s >= 0.4).mean() * weighted(t, s, c)) / 2
        assert found[b].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("agree", [True, False])
def test_views_are_as_strong_as_both_agree(agree):
    """Of images that both know, the first view is the strong one; of others the weak one, which counts for nothing."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    weak = positions.labels(4, (16, 16))  # classes 0 to 6 in turns
    weak = PseudoLabels(weak.values, weak.classes, torch.ones(4, 16, 16), weak.entropy, weak.valid)
    other = weak if agree else PseudoLabels(*vars(weak).values())
    other = (
        other if agree else PseudoLabels(weak.values, (weak.classes + 1) % 7, weak.confidence, weak.entropy, weak.valid)
    )
    scene = Scene(View(images, weak), images, torch.zeros(4, 16, 16), weak.valid, 7, other)
    with addressed(0, 0):
        first, second = ByAgreement().strong(scene)
    with addressed(0, 0):
        strong = ByAgreement().operations.images(images)
    torch.testing.assert_close(first.images, strong if agree else images)
    assert torch.equal(first.labels.classes, weak.classes)
    torch.testing.assert_close(first.share + second.share, torch.full((4,), float(agree)))
    if agree:  # a batch with the chance 1
        assert (second.share == 0.5).all() and not torch.equal(second.images, images)
    moved = second.images != images
    sources = images.roll(1, 0), images.roll(2, 0), images.roll(3, 0)
    assert any(torch.equal(torch.where(moved, each, images), second.images) for each in sources)
