"""Overlaps and surface distances against closed forms, brute force, MedPy and MONAI."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from monai.metrics import compute_surface_dice as monai_surface_dice
from scipy.ndimage import gaussian_filter

from farcluss.errors import DataError
from farcluss_medical import metrics

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (0.7, 1.3, 2.9)]


def ball(shape, center, radius):
    grid = np.indices(shape)
    return sum((axis - middle) ** 2 for axis, middle in zip(grid, center, strict=True)) <= radius**2


def box(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(map(slice, start, stop))] = True
    return mask


def blobs(shape, seed):
    """Two overlapping random masks of several parts, some at the border of the image."""
    random = np.random.default_rng(seed)
    base = random.normal(size=shape)
    noises = (gaussian_filter(base + 0.5 * random.normal(size=shape), 1.5) for _ in range(2))
    return tuple(noise > 0.12 for noise in noises)


def pairs():
    for seed in range(3):
        yield blobs((17, 14, 12), seed)
    yield ball((24, 24, 24), (12, 12, 12), 7), ball((24, 24, 24), (10, 13, 12), 6)
    yield box((9, 8, 7), (0, 0, 0), (9, 8, 7)), box((9, 8, 7), (2, 2, 2), (5, 5, 5))
    yield box((9, 8, 7), (0, 0, 0), (1, 1, 1)), box((9, 8, 7), (8, 7, 6), (9, 8, 7))


PAIRS = list(pairs())


def brute_force(truth, prediction, spacing):
    """Surface distances from the definitions: neighbors one by one, all distances in float64."""

    def points(mask):
        found = []
        for voxel in zip(*np.nonzero(mask), strict=True):
            for axis, step in ((axis, step) for axis in range(mask.ndim) for step in (-1, 1)):
                beside = list(voxel)
                beside[axis] += step
                if not 0 <= beside[axis] < mask.shape[axis] or not mask[tuple(beside)]:
                    found.append(voxel)
                    break
        return np.array(found, dtype=np.float64) * np.array(spacing)

    true_points, predicted_points = points(truth), points(prediction)
    distances = np.sqrt(((predicted_points[:, None] - true_points[None]) ** 2).sum(-1))
    return distances.min(axis=1), distances.min(axis=0)


def batch(mask):
    return torch.from_numpy(mask)[None, None]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_distances_are_those_of_all_pairs_of_surface_voxels(pair, spacing):
    expected = brute_force(*PAIRS[pair], spacing)
    for found, wanted in zip(metrics.surface_distances(*PAIRS[pair], spacing), expected, strict=True):
        np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(40,), (19, 23), (7, 6, 5, 4)])
def test_any_number_of_axes(shape):
    truth, prediction = blobs(shape, 5)
    spacing = np.linspace(0.5, 2, len(shape))
    for found, wanted in zip(
        metrics.surface_distances(truth, prediction, spacing), brute_force(truth, prediction, spacing), strict=True
    ):
        np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_tree_and_transform_give_the_same(pair, spacing):
    start, end = (metrics.surface(mask) for mask in PAIRS[pair])
    np.testing.assert_allclose(
        metrics._by_tree(start, end, spacing), metrics._by_transform(start, end, spacing), rtol=1e-12
    )


def test_both_ways_of_search_are_taken(monkeypatch):
    taken = []
    for name in ("_by_tree", "_by_transform"):
        way = getattr(metrics, name)
        monkeypatch.setattr(metrics, name, lambda *masks, name=name, way=way: taken.append(name) or way(*masks))
    truth = ball((40, 40, 40), (8, 8, 8), 3)
    metrics.surface_distances(truth, truth, (1, 1, 1))
    assert set(taken) == {"_by_transform"}
    taken.clear()
    metrics.surface_distances(truth, ball((40, 40, 40), (30, 30, 30), 3), (1, 1, 1))
    assert set(taken) == {"_by_tree"}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_scores_are_those_of_medpy(pair, spacing):
    truth, prediction = PAIRS[pair]
    ours = metrics.score(truth, prediction, spacing).values
    assert ours["dice"] == pytest.approx(medpy.dc(prediction, truth), abs=1e-12)
    assert ours["iou"] == pytest.approx(medpy.jc(prediction, truth), abs=1e-12)
    assert ours["assd"] == pytest.approx(medpy.assd(prediction, truth, voxelspacing=spacing), rel=1e-12)
    distances = metrics.surface_distances(truth, prediction, spacing)
    pooled = metrics.hd95(*distances, pooled=True)
    assert pooled == pytest.approx(medpy.hd95(prediction, truth, voxelspacing=spacing), rel=1e-12)


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_the_literatures_protocol_is_medpy_in_voxels(pair):
    truth, prediction = PAIRS[pair]
    ours = metrics.score(truth, prediction, (3.0, 2.0, 0.5), protocol="ssl4mis").values
    assert list(ours) == ["dice", "iou", "hd95", "asd", "nsd"]
    assert ours["hd95"] == pytest.approx(medpy.hd95(prediction, truth), rel=1e-12)
    assert ours["asd"] == pytest.approx(medpy.asd(prediction, truth), rel=1e-12)
    assert ours["dice"] == pytest.approx(medpy.dc(prediction, truth), abs=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_scores_are_those_of_monai(pair, spacing):
    truth, prediction = PAIRS[pair]
    tolerance = 1.55  # no distance between voxels of these spacings is as near to it as float32 is wrong
    ours = metrics.score(truth, prediction, spacing, tolerance=tolerance).values
    both = {"y_pred": batch(prediction), "y": batch(truth), "include_background": True}
    assert ours["dice"] == pytest.approx(compute_dice(**both).item(), abs=1e-6)
    hausdorff = compute_hausdorff_distance(**both, percentile=95, spacing=spacing)
    assert ours["hd95"] == pytest.approx(hausdorff.item(), rel=1e-5)
    average = compute_average_surface_distance(**both, symmetric=True, spacing=spacing)
    assert ours["assd"] == pytest.approx(average.item(), rel=1e-5)
    surface_dice = monai_surface_dice(**both, class_thresholds=[tolerance], spacing=spacing)
    assert ours["nsd"] == pytest.approx(surface_dice.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("false_positive", "spacing", "pooled", "directed"),
    [
        (False, (1, 1, 1), 2.83, 3.00),
        (False, (5, 1, 1), 7.14, 10.21),
        (True, (1, 1, 1), 3.00, 26.57),
        (True, (5, 1, 1), 10.44, 59.11),
    ],
)
def test_a_far_false_positive_shows_in_the_directed_percentiles_alone(false_positive, spacing, pooled, directed):
    shape = (48, 48, 48)
    truth, prediction = ball(shape, (24, 24, 24), 10), ball(shape, (26, 24, 24), 9)
    if false_positive:
        prediction |= box(shape, (1, 1, 1), (5, 5, 5))
    distances = metrics.surface_distances(truth, prediction, spacing)
    assert round(metrics.hd95(*distances, pooled=True), 2) == pooled
    assert round(metrics.hd95(*distances), 2) == directed


@pytest.mark.parametrize("axis", range(3))
def test_shifted_plates_have_known_distances(axis):
    """Two plates of one voxel: every distance is the shift."""
    spacing = (0.5, 1.25, 3.0)
    start, stop = [2, 2, 2], [10, 10, 10]
    start[axis], stop[axis] = 3, 4
    truth = box((14, 14, 14), start, stop)
    prediction = np.roll(truth, 2, axis=axis)
    scores = metrics.score(truth, prediction, spacing, tolerance=2 * spacing[axis]).values
    shift = 2 * spacing[axis]
    assert scores == {"dice": 0, "iou": 0, "hd95": shift, "assd": shift, "nsd": 1}
    assert metrics.score(truth, prediction, spacing, tolerance=0.99 * shift).values["nsd"] == 0


def test_shifted_intervals_by_hand():
    truth, prediction = box((12,), (2,), (6,)), box((12,), (3,), (9,))  # ends 2, 5 against 3, 8; spacing 2
    scores = metrics.score(truth, prediction, (2.0,), tolerance=2.0)
    assert (scores.true_voxels, scores.predicted_voxels, scores.flag) == (4, 6, "")
    assert scores.values["dice"] == pytest.approx(2 * 3 / 10)
    assert scores.values["iou"] == pytest.approx(3 / 7)
    # Prediction to truth: 1 and 3 voxels; truth to prediction: 1 and 2.
    assert scores.values["hd95"] == pytest.approx(2 * (1 + 0.95 * 2))
    assert scores.values["assd"] == pytest.approx(2 * (1 + 3 + 1 + 2) / 4)
    assert scores.values["nsd"] == pytest.approx(2 / 4)


def test_the_mean_is_over_voxels_of_both_surfaces_not_over_directions():
    outward, inward = np.array([4.0]), np.array([1.0, 1.0, 1.0])
    assert metrics.assd(outward, inward) == 7 / 4
    assert metrics.hd95(outward, inward) == 4


def test_perfect_masks_score_perfectly():
    truth, _ = PAIRS[0]
    assert metrics.score(truth, truth, (1, 2, 3)).values == {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "nsd": 1}


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_empty_space_around_changes_nothing_but_at_the_border_of_the_image(pair):
    truth, prediction = PAIRS[pair]
    expected = metrics.score(truth, prediction, (2.0, 1.0, 0.5)).values
    wide = (np.pad(mask, ((3, 0), (11, 4), (0, 9))) for mask in (truth, prediction))
    assert metrics.score(*wide, (2.0, 1.0, 0.5)).values == expected


def test_the_border_of_the_image_is_surface():
    full = np.ones((4, 5), dtype=bool)
    inner = box((4, 5), (1, 1), (3, 4))
    np.testing.assert_array_equal(metrics.surface(full), ~inner)


def test_a_step_of_the_tolerance_is_within_it_in_spite_of_float32():
    step = float(np.float32(0.8))
    assert step > 0.8
    truth = box((9, 4), (2, 0), (3, 4))
    assert metrics.score(truth, np.roll(truth, 1, axis=0), (step, 1.0), tolerance=0.8).values["nsd"] == 1
    assert metrics.score(truth, np.roll(truth, 1, axis=0), (step, 1.0), tolerance=0.7999).values["nsd"] == 0


def test_empty_masks_by_the_default_rules():
    some, none = box((3, 4, 12), (1, 1, 1), (2, 3, 3)), np.zeros((3, 4, 12), dtype=bool)
    spacing = (1.0, 0.75, 1.0)  # 3, 3 and 12 mm
    diagonal = math.sqrt(9 + 9 + 144)
    penalty = {"dice": 0, "iou": 0, "hd95": pytest.approx(diagonal), "assd": pytest.approx(diagonal), "nsd": 0}
    missed = metrics.score(some, none, spacing)
    assert (missed.flag, missed.true_voxels, missed.predicted_voxels, missed.values) == ("missed", 4, 0, penalty)
    invented = metrics.score(none, some, spacing)
    assert (invented.flag, invented.predicted_voxels, invented.values) == ("false-positive", 4, penalty)
    neither = metrics.score(none, none, spacing)
    assert neither.flag == "both-empty"
    assert all(math.isnan(value) for value in neither.values.values())


def test_empty_masks_by_the_literatures_rules():
    some, none = box((3, 4), (1, 1), (2, 3)), np.zeros((3, 4), dtype=bool)
    for masks in ((some, none), (none, some), (none, none)):
        assert set(metrics.score(*masks, (1, 1), protocol="ssl4mis").values.values()) == {0}


def test_overlaps_of_two_empty_masks_are_undefined():
    none = np.zeros((3, 4), dtype=bool)
    assert math.isnan(metrics.dice(none, none))
    assert math.isnan(metrics.iou(none, none))


@pytest.mark.parametrize(
    ("shapes", "spacing", "words"),
    [
        (((3, 4), (4, 3)), (1, 1), r"\(3, 4\).*\(4, 3\)"),
        (((3, 4), (3, 4)), (1, 1, 1), "2 axes"),
        (((3, 4), (3, 4)), (1, 0), "above 0"),
        (((3, 4), (3, 4)), (1, math.nan), "above 0"),
    ],
)
def test_masks_and_spacings_must_fit(shapes, spacing, words):
    with pytest.raises(DataError, match=words):
        metrics.score(*(np.ones(shape, dtype=bool) for shape in shapes), spacing)


def test_there_is_no_distance_to_an_empty_mask():
    with pytest.raises(DataError, match="both masks"):
        metrics.surface_distances(np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool), (1, 1))


def test_the_metrics_need_no_torch():
    code = (
        "import sys, numpy; from farcluss_medical.metrics import score; m = numpy.eye(4, dtype=bool);"
        "score(m, m, (1, 1)); print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", "False"]
