"""Random operations against Pillow; agreement of student and teacher against a plain loop and known numbers."""

import colorsys
from dataclasses import replace

import numpy as np
import oracles
import positions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


def test_a_constant_channel_stays_as_it_is():
    image = torch.rand(3, 8, 9) / 2 + 0.2
    image[1] = 0.3
    found = OPERATIONS["autocontrast"](image, 0.5, 0.4)
    assert torch.equal(found[1], image[1])
    assert found[::2].amin((1, 2)).tolist() == [0, 0] and found[::2].amax((1, 2)).tolist() == [1, 1]


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


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 4, 16, 16), (2, 3, 6, 16)])
@pytest.mark.parametrize(
    ("name", "stage", "remedy"),
    [
        ("random-operations", RandomOperations(), 'Set stages.augment = "intensity"'),
        ("by-agreement", ByAgreement(), "Take another method, such as fixmatch"),
    ],
)
def test_other_images_are_refused(name, stage, remedy, shape):
    weak, wanted = positions.labels(2, shape[2:]), "Raise data.crop to 7" if shape[2] == 6 else remedy
    with pytest.raises(PluginError, match=rf"^augment/{name} .*\n{wanted}"):
        stage.strong(positions.scene(torch.rand(shape), weak)._replace(student=weak))


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


@pytest.mark.parametrize("strength", [0.0, 0.2, 0.7, 1.0])
def test_strengths_are_bits_thresholds_and_turns(strength):
    """8 to 4 bits of posterize, all thresholds of solarize, and half a turn of the hue to each side."""
    image = torch.from_numpy(picture()).movedim(-1, 0) / 255
    bits = 8 - int(np.ceil(4 * strength))
    for name, wanted in (
        ("posterize", ImageOps.posterize(Image.fromarray(picture()), bits)),
        ("solarize", ImageOps.solarize(Image.fromarray(picture()), 255 * strength)),
    ):
        found = (OPERATIONS[name](image, strength, 0.4) * 255).movedim(0, -1).numpy()
        assert np.abs(found - np.asarray(wanted)).max() <= 1  # levels are n / 2^bits here, n / (2^bits - 2^-bits) there
    pure = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    turned = OPERATIONS["hue"](pure, strength, 0.4).flatten().tolist()
    assert turned == pytest.approx(colorsys.hsv_to_rgb((strength - 0.5) % 1, 1, 1), abs=1e-5)


@pytest.mark.parametrize("name", ["contrast", "brightness", "color", "sharpness"])
def test_a_factor_of_1_changes_nothing(name):
    image = torch.from_numpy(picture()).movedim(-1, 0) / 255
    torch.testing.assert_close(OPERATIONS[name](image, 0.5, 1.0), image)


def test_the_factor_is_that_of_the_strength():
    image = torch.full((3, 8, 8), 0.5)
    found = [
        RandomOperations(factor=(0.2, 0.8))._changed(image, [("brightness", share)]).mean() for share in (0, 0.5, 1)
    ]
    assert [float(each) for each in found] == pytest.approx([0.1, 0.25, 0.4])


@settings(max_examples=20, deadline=None)
@given(fewest=st.integers(1, 4), more=st.integers(0, 3), invert=st.booleans(), seed=st.integers(0, 1000))
def test_numbers_of_operations_are_those_asked_for(fewest, more, invert, seed):
    stage = RandomOperations(fewest=fewest, most=fewest + more, invert=invert)
    with addressed(seed, 0):
        plans = stage.plans(200)
    assert {len(plan) for plan in plans} == set(range(fewest, fewest + more + 1))
    assert {name for plan in plans for name, _ in plan} == OPERATIONS.keys() - (set() if invert else {"invert"})
    assert len(stage.plans(1)) == 1


def test_all_numbers_of_operations_are_as_likely():
    torch.manual_seed(0)
    counts = np.bincount([len(plan) for plan in RandomOperations(fewest=1, most=3).plans(3000)])
    np.testing.assert_allclose(counts, [0, 1000, 1000, 1000], atol=105)  # four standard deviations of 26


def test_views_and_steps_differ():
    images, weak = torch.rand(4, 3, 16, 16), positions.labels(4, (16, 16))
    stage, scene = RandomOperations(views=2, fewest=3), positions.scene(images, weak)
    with addressed(0, 0):
        first, second = stage.strong(scene)
    with addressed(0, 1):
        later, _ = stage.strong(scene)
    assert not torch.equal(first.images, second.images) and not torch.equal(first.images, later.images)
    assert first.labels is weak and second.labels is weak


@st.composite
def opinions(draw):
    """Classes of student and teacher, confidences of both, and which pixels count; few classes, so that some agree."""
    b, n, c = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    return rng.integers(0, c, (2, b, n)), rng.choice([0.3, 0.5, 0.95], (2, b, n)), rng.random((b, n)) < 0.6, c


@oracles.PROPERTY
@given(opinions(), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_agreement_of_any_labels_is_a_plain_loop(given, threshold):
    """As that above, without NumPy's masks; what is at invalid pixels does not matter."""
    (student, teacher), (of_student, of_teacher), valid, c = given
    pairs = ((student, of_student), (teacher, of_teacher))
    found = agreement(*(labels(k, s, torch.from_numpy(valid)) for k, s in pairs), threshold, c)
    junk = [labels(np.where(valid, k, 0), np.where(valid, s, 1.0), torch.from_numpy(valid)) for k, s in pairs]
    assert torch.equal(agreement(*junk, threshold, c), found)
    for image, ease in enumerate(found.tolist()):
        places = np.flatnonzero(valid[image])
        wanted = 0.0
        for (a, _), (b, sure) in (pairs, pairs[::-1]):
            mine, theirs = a[image][places].tolist(), b[image][places].tolist()
            ious, masses = [], []
            for k in range(1, c):
                both = sum(x == k == y for x, y in zip(mine, theirs, strict=True))
                either = sum(k in pair for pair in zip(mine, theirs, strict=True))
                ious.append(both / either if either else 0.0)
                masses.append(theirs.count(k))
            share = np.mean(sure[image][places] >= threshold) if len(places) else 0.0
            wanted += share * np.dot(ious, masses) / max(sum(masses), 1) / 2
        assert ease == pytest.approx(wanted, abs=1e-6) and 0 <= ease <= 1


def test_nothing_but_the_first_class_is_no_agreement():
    same = labels(torch.zeros(2, 5, dtype=torch.long), 1.0)
    assert (agreement(same, same, 0.95, 3) == 0).all()


def known_ease(images):
    """A scene in which student and teacher agree about each image as in the known numbers: e = .3125."""
    flat = [([0, 1, 1, 2], [0.99, 0.99, 0.5, 0.5]), ([0, 1, 2, 2], [0.99, 0.99, 0.99, 0.5])]
    quarter = images.shape[2] * images.shape[3] // 4
    student, teacher = (
        labels([np.repeat(k, quarter).tolist()] * len(images), np.repeat(s, quarter)).map(
            lambda tensor: tensor.unflatten(-1, images.shape[2:]).squeeze(-3)
        )
        for k, s in flat
    )
    assert teacher.classes.shape == (len(images), 1, *images.shape[2:])
    masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8)
    return Scene(View(images, teacher), images, masks, masks == 0, 3, student)


def test_views_of_known_numbers():
    """e = .3125: the strong pixel .2 and the weak one .6 give .475, and the view's loss a share of .3125."""
    images, stage = torch.full((2, 3, 16, 16), 0.6), ByAgreement()
    stage.operations.images = lambda images: torch.full_like(images, 0.2)
    for seed in range(20):
        with addressed(seed, 0):
            first, second = stage.strong(known_ease(images))
        torch.testing.assert_close(first.images, torch.full_like(images, 0.475))
        torch.testing.assert_close(first.share + second.share, torch.full((2,), 0.3125))


def test_the_second_view_counts_as_often_as_both_agree():
    """One coin for the batch: both views have half of the share, or the first has all. Labels move as pixels do."""
    images, stage, counts = positions.images(3, (16, 16)), ByAgreement(), []
    scene = known_ease(images)
    given = replace(scene.weak.labels, confidence=positions.labels(3, (16, 16)).confidence, valid=images[:, 0] > 0.05)
    scene = scene._replace(weak=View(images, given))
    ease = agreement(scene.student, given, 0.95, 3)
    for seed in range(200):
        with addressed(seed, 1):
            first, second = stage.strong(scene)
        assert first.labels is given
        counted = bool((second.share > 0).any())
        torch.testing.assert_close(second.share, ease / 2 * counted)
        torch.testing.assert_close(first.share, ease - second.share)
        assert torch.equal(second.images[:, 0] > 0.05, second.labels.valid)
        torch.testing.assert_close(second.images[:, 0] * given.confidence.max(), second.labels.confidence)
        moved = (second.images != images)[:, 0]
        high, wide = (int(moved[0].any(axis).sum()) for axis in (1, 0))
        assert high * wide == moved[0].sum() and 1 <= min(high, wide) and max(high, wide) <= 15  # .9 of 16
        counts.append(counted)
    assert np.mean(counts) == pytest.approx(ease.mean().item(), abs=0.08)


def test_all_views_are_alike_however_the_batch_is_spread():
    scene = known_ease(torch.rand(4, 3, 16, 16))
    with addressed(3, 4):
        whole = RandomOperations(views=2).strong(scene)
    for rank in range(4):
        with addressed(3, 4, rank, 4):
            part = RandomOperations(views=2).strong(scene._replace(weak=scene.weak.map(lambda t, r=rank: t[r : r + 1])))
        assert all(torch.equal(a.images, b.images[rank : rank + 1]) for a, b in zip(part, whole, strict=True))
