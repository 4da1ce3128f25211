"""Mixing: laws of boxes, partners, CutMix, ClassMix."""

import numpy as np
import positions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.stages.base import View, true_labels
from farcluss.stages.mix import ClassMix, CutMix, NoMix, pasted_classes
from farcluss.stages.mixing import Boxes, inside, mix, partners
from farcluss.tensors.draws import addressed
from farcluss.testing import MixTester


class TestNoMix(MixTester):
    stage = NoMix


class TestCutMix(MixTester):
    stage = CutMix
    options = {"p": 1.0}


class TestSeveralBoxes(MixTester):
    stage = CutMix
    options = {"p": 0.7, "law": "half", "boxes": 3, "partner": "random"}


class TestBeta(MixTester):
    stage = CutMix
    options = {"law": "beta", "beta": [4.0, 4.0], "partner": "reverse"}


class TestClassMix(MixTester):
    stage = ClassMix


# Boxes.


def sides(boxes: Boxes, count: int, axes: int = 2) -> np.ndarray:
    """Sides `(count, axes)` of drawn boxes, as shares of the image."""
    torch.manual_seed(0)
    first, last = boxes.edges(count, axes, torch.device("cpu"))
    assert (first >= 0).all() and (last <= 1 + 1e-6).all()
    return (last - first).double().numpy()


def quantiles(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Compare deciles of two samples."""
    levels = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(found, levels), np.quantile(wanted, levels), atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.lists(st.integers(4, 30), min_size=1, max_size=3),
    low=st.floats(0.05, 0.4),
    spread=st.floats(0.0, 0.5),
    law=st.sampled_from(["log-uniform", "uniform"]),
)
def test_boxes_have_the_area_asked_for_in_any_dimension(seed, size, low, spread, law):
    torch.manual_seed(seed)
    boxes = Boxes(law=law, area=(low, low + spread), aspect=(1.0, 1.0)).draw(6, tuple(size))
    assert boxes.shape == (6, *size) and boxes.dtype == torch.bool
    least, most = (share ** (1 / len(size)) for share in (low, low + spread))
    for box in boxes:
        where = box.nonzero()
        extent = where.max(0).values - where.min(0).values + 1
        assert int(extent.prod()) == int(box.sum())  # one box, no holes
        for side, pixels in zip(extent.tolist(), size, strict=True):
            assert (
                max(1, np.floor(least * pixels)) - 1 <= side <= max(1, np.ceil(most * pixels)) + 1
            )  # edges are rounded


def test_no_boxes_without_a_chance():
    assert not Boxes(p=0.0).draw(5, (8, 9)).any()
    share = Boxes(p=0.3).draw(4000, (8, 9)).flatten(1).any(1).double().mean()
    assert abs(share - 0.3) < 0.03


@pytest.mark.parametrize("ratio", [2.0, 0.5, 1.0])
def test_a_range_of_one_aspect_gives_boxes_of_that_aspect(ratio):
    found = sides(Boxes(area=(0.1, 0.4), aspect=(ratio, ratio)), 300)
    np.testing.assert_allclose(found[:, 0] / found[:, 1], ratio, rtol=1e-5)


def test_the_aspect_is_log_uniform():
    found = sides(Boxes(area=(0.1, 0.2), aspect=(0.25, 4.0)), 8000)
    wanted = np.linspace(np.log(0.25), np.log(4.0), 100_001)  # every box of such an area fits
    quantiles(np.log(found[:, 0] / found[:, 1]), wanted, 0.06)
    quantiles(found.prod(1), np.linspace(0.1, 0.2, 1001), 0.003)


@pytest.mark.parametrize("law", ["log-uniform", "uniform"])
def test_boxes_are_those_that_fit_of_all(law):
    """Against boxes that are drawn anew until one fits, in NumPy: large ones cannot be long."""
    draw, wanted = np.random.default_rng(0), []
    while len(wanted) < 6000:
        area = draw.uniform(0.3, 0.5)
        for _ in range(1000):
            ratio = draw.uniform(0.3, 1 / 0.3) if law == "uniform" else np.exp(draw.uniform(np.log(0.3), -np.log(0.3)))
            height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
            top, left = draw.random(2) if law == "uniform" else (0, 0)
            if top + height <= 1 and left + width <= 1:
                wanted.append(height / width)
                break
    found = sides(Boxes(law=law, area=(0.3, 0.5), aspect=(0.3, 1 / 0.3)), 6000)
    quantiles(np.log(found[:, 0] / found[:, 1]), np.log(wanted), 0.06)


def test_places_are_uniform_among_those_inside():
    torch.manual_seed(0)
    first, _ = Boxes(area=(0.25, 0.25), aspect=(1.0, 1.0)).edges(6000, 2, torch.device("cpu"))
    for axis in (0, 1):
        quantiles(first[:, axis].numpy(), np.linspace(0, 0.5, 1001), 0.02)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_half_of_the_image(axes):
    found = sides(Boxes(law="half"), 3000, axes)
    np.testing.assert_allclose(found.prod(1), 0.5, rtol=1e-5)
    if axes > 1:
        quantiles(found[:, -1], np.linspace(0.5, 1, 1001), 0.02)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_beta_boxes_share_a_size_and_are_cut_at_the_border(axes):
    torch.manual_seed(0)
    shares = []
    for _ in range(800):
        first, last = Boxes(law="beta", beta=(8.0, 2.0)).edges(20, axes, torch.device("cpu"))
        found = last - first
        shares.append(float(found.max()) ** axes)  # the largest of many sides is not cut
        assert (found >= found.max() / 2 - 1e-6).all()  # half of a side is cut at most, as the center is inside
    quantiles(np.array(shares), 1 - np.random.default_rng(0).beta(8, 2, 20_000), 0.02)


def test_pixels_in_an_odd_number_of_boxes():
    torch.manual_seed(0)
    one, three = (Boxes(area=(0.3, 0.3), aspect=(1.0, 1.0), count=count).draw(500, (60, 60)) for count in (1, 3))
    assert abs(one.double().mean() - 0.3) < 0.02
    assert three.double().mean() > 0.32 and three.flatten(1).any(1).all()


def test_edges_are_rounded_and_leave_a_pixel():
    region = inside(torch.tensor([[0.24], [0.999]]), torch.tensor([[0.51], [0.999]]), (10,))
    assert region.int().tolist() == [[0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [0] * 9 + [1]]


# Partners.


@pytest.mark.parametrize(("rule", "wanted"), [("previous", [3, 0, 1, 2]), ("reverse", [3, 2, 1, 0])])
def test_partners(rule, wanted):
    assert partners(rule, 4)(torch.arange(4)).tolist() == wanted


def test_random_partners_differ_by_step_and_are_never_oneself():
    found = set()
    for step in range(40):
        with addressed(seed=1, step=step):
            rows = partners("random", 5)(torch.arange(5)).tolist()
        assert all(row != place for place, row in enumerate(rows)) and sorted(rows) == list(range(5))
        found.add(tuple(rows))
    assert len(found) == 4
    assert partners("random", 1)(torch.arange(1)).tolist() == [0]


# Mixed views.


@pytest.mark.parametrize("size", [(16, 20), (6, 7, 8)])
@pytest.mark.parametrize("options", [{"p": 1.0}, {"p": 0.5, "area": (0.2, 0.9)}, {"p": 1.0, "partner": "reverse"}])
def test_cutmix_moves_pixels_and_labels_alike(options, size):
    torch.manual_seed(3)
    labels = positions.labels(4, size)
    given = positions.scene(positions.images(4, size), labels)
    view = CutMix(**options)(given.weak, given)
    images, moved = view.images, view.labels
    torch.testing.assert_close(images[:, 0], moved.confidence / labels.confidence.max())
    assert (moved.classes[:, 0] == moved.confidence.long() % 7).all()
    changed = (moved.confidence != labels.confidence).flatten(1).any(1)
    assert changed.any() and (options["p"] < 1 or changed.all())


def test_a_region_is_filled_from_the_other_view():
    one, other = (View(positions.images(3, (4, 4)) * factor, positions.labels(3, (4, 4))) for factor in (1.0, 0.5))
    region = torch.zeros(3, 4, 4, dtype=torch.bool)
    region[:, 1:3, 1:3] = True
    mixed = mix(one, View(other.images, other.labels.map(lambda t: t.roll(1, 0))), region).images
    assert torch.equal(mixed[:, 0][region], other.images[:, 0][region])
    assert torch.equal(mixed[:, 0][~region], one.images[:, 0][~region])


@pytest.mark.parametrize("size", [(12, 14), (5, 6, 7)])
def test_classmix_pastes_half_of_the_partners_classes(size):
    torch.manual_seed(1)
    labels = positions.labels(4, size)
    valid = torch.rand(4, *size) < 0.8
    labels.valid.copy_(valid)
    given = positions.scene(positions.images(4, size), labels)
    view = ClassMix()(given.weak, given)
    images, moved = view.images, view.labels
    for row in range(4):
        partner = (row - 1) % 4
        pasted = moved.confidence[row] != labels.confidence[row]
        classes = set((moved.confidence[row][pasted].long() % 7).tolist())
        assert len(classes) == 4  # of seven, rounded up
        source = torch.isin(labels.classes[partner, 0], torch.tensor(sorted(classes))) & valid[partner]
        assert torch.equal(pasted, source)
        assert torch.equal(moved.confidence[row][pasted], labels.confidence[partner][pasted])
        torch.testing.assert_close(images[row, 0], moved.confidence[row] / labels.confidence.max())
    assert ClassMix(p=0.0)(given.weak, given).labels.confidence.equal(labels.confidence)


def test_only_classes_that_are_there_are_chosen():
    labels = positions.labels(1, (3, 7)).map(lambda tensor: tensor.clone())
    labels.classes.clamp_(max=2)
    labels.valid.copy_(labels.classes[:, 0] != 1)  # classes 0 and 2 are left
    chosen = pasted_classes(labels, torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.8, 0.8, 0.8]]))
    assert torch.equal(chosen, labels.valid & (labels.classes[:, 0] == 2))
    nothing = labels.map(lambda tensor: tensor & False if tensor.dtype == torch.bool else tensor)
    assert not pasted_classes(nothing, torch.rand(1, 7)).any()


def test_masks_as_labels():
    given = positions.scene(torch.rand(2, 3, 4, 5), positions.labels(2, (4, 5)))
    masks = torch.randint(0, 7, (2, 4, 5), dtype=torch.uint8)
    known = torch.rand(2, 4, 5) < 0.7
    wide = given.weak.labels.map(lambda t: t.expand(-1, 3, -1, -1) if t.dim() == 4 else t)
    found = true_labels(given._replace(weak=View(given.weak.images, wide), masks=masks, known=known))
    assert found.values.shape == found.classes.shape == (2, 3, 4, 5) and found.values.sum(1).eq(1).all()
    assert torch.equal(found.classes[:, 0][known], masks.long()[known]) and torch.equal(found.valid, known)
    assert (found.classes.sort(1).values.diff(dim=1) > 0).all() and found.classes.max() < 7
    assert (found.confidence == 1).all() and (found.entropy == 0).all()
