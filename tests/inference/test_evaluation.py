import json
import math
import os
import select
import signal
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from evaluation_processes import CLASSES, Scenes, build_model, score_as
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from farcluss.data.base import IGNORE, Item, Sample
from farcluss.errors import Cancelled, DataError, SampleError
from farcluss.inference.evaluation import (
    LabeledImage,
    Scores,
    confusion_matrix,
    evaluate,
    evaluate_all,
    group_by_size,
    map_threaded,
    read_images,
)
from farcluss.inference.weights import Model
from farcluss.networks.base import Prediction


def counted(predicted, masks, classes):
    """The confusion matrix by its definition."""
    matrix = np.zeros((classes, classes), np.int64)
    for found, true in zip(predicted.ravel().tolist(), masks.ravel().tolist(), strict=True):
        if true != IGNORE:
            matrix[true, found] += 1
    return matrix


def drawn(data, classes, shape):
    pixels = int(np.prod(shape))
    predicted = data.draw(st.lists(st.integers(0, classes - 1), min_size=pixels, max_size=pixels))
    masks = data.draw(st.lists(st.sampled_from([*range(classes), IGNORE]), min_size=pixels, max_size=pixels))
    return torch.tensor(predicted).view(shape), torch.tensor(masks, dtype=torch.uint8).view(shape)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(2, 5), st.sampled_from([(6,), (2, 5), (2, 2, 3)]))
def test_confusion_matrix(data, classes, shape):
    predicted, masks = drawn(data, classes, shape)
    found = confusion_matrix(predicted, masks, classes)
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), counted(predicted, masks, classes))
    assert torch.equal(confusion_matrix(predicted.to(torch.uint8), masks.long(), classes), found)


def test_the_largest_number_of_classes_does_not_overflow():
    found = confusion_matrix(torch.tensor([253, 0]), torch.tensor([253, 253], dtype=torch.uint8), 254)
    assert found[253, 253] == found[253, 0] == 1 and found.sum() == 2


def test_nothing_counts_where_all_is_ignored():
    assert confusion_matrix(torch.zeros(3, dtype=torch.long), torch.full((3,), 255), 2).tolist() == [[0, 0], [0, 0]]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(2, 5))
def test_scores_equal_their_definitions(data, classes):
    predicted, masks = drawn(data, classes, (4, 6))
    scores = Scores(counted(predicted, masks, classes), tuple("abcdefg"[:classes]))
    keep = masks.numpy() != IGNORE
    true, found = masks.numpy()[keep], predicted.numpy()[keep]
    ious = []
    for k in range(classes):
        hits, either = ((true == k) & (found == k)).sum(), ((true == k) | (found == k)).sum()
        ious.append(hits / either if either else math.nan)
        np.testing.assert_equal(scores.iou[k], ious[-1])
        np.testing.assert_equal(scores.accuracy[k], hits / (true == k).sum() if (true == k).any() else math.nan)
        both = (true == k).sum() + (found == k).sum()
        np.testing.assert_equal(scores.dice[k], 2 * hits / both if both else math.nan)
    present = [iou for iou in ious if not math.isnan(iou)]
    np.testing.assert_allclose(scores.miou, sum(present) / len(present) if present else math.nan)
    np.testing.assert_allclose(scores.pixel_accuracy, (true == found).mean() if keep.any() else math.nan)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(2, 5))
def test_scores_equal_torchmetrics(data, classes):
    predicted, masks = drawn(data, classes, (5, 8))
    if (masks == IGNORE).all():
        masks[0, 0] = 0
    scores = Scores(confusion_matrix(predicted, masks, classes).numpy(), tuple("abcdefg"[:classes]))

    def theirs(metric, **options):
        return metric(num_classes=classes, ignore_index=IGNORE, **options)(predicted, masks.long()).numpy()

    np.testing.assert_allclose(scores.miou, theirs(MulticlassJaccardIndex, average="macro"), rtol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(scores.iou), theirs(MulticlassJaccardIndex, average="none"), rtol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(scores.dice), theirs(MulticlassF1Score, average="none"), rtol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(scores.accuracy), theirs(MulticlassAccuracy, average="none"), rtol=1e-6)
    np.testing.assert_allclose(scores.pixel_accuracy, theirs(MulticlassAccuracy, average="micro"), rtol=1e-6)


def test_counts_beyond_32_bits_are_exact():
    big = 2**40
    scores = Scores(np.array([[big, 1], [0, 3]]), ("a", "b"))
    assert scores.iou.tolist() == [big / (big + 1), 3 / 4]
    assert scores.to_json()["classes"][0]["pixels"] == big + 1


def test_absent_classes_are_none_and_left_out_of_the_mean():
    # a: right; b: true but never found; c: found but never true; d: neither.
    confusion = np.array([[6, 0, 2, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    table = Scores(confusion, ("a", "b", "c", "d")).to_json()
    assert [row["class"] for row in table["classes"]] == ["a", "b", "c", "d"]
    assert [row["iou"] for row in table["classes"]] == [0.6, 0, 0, None]
    assert [row["accuracy"] for row in table["classes"]] == [0.75, 0, None, None]
    assert [row["dice"] for row in table["classes"]] == [0.75, 0, 0, None]
    assert [row["pixels"] for row in table["classes"]] == [8, 2, 0, 0]
    assert table["miou"] == pytest.approx(0.2) and table["pixel_accuracy"] == 0.6
    assert table["confusion"] == confusion.tolist()


def test_scores_of_nothing_are_valid_json():
    table = Scores(np.zeros((2, 2), np.int64), ("a", "b")).to_json()
    assert table["miou"] is table["pixel_accuracy"] is None
    assert json.loads(json.dumps(table, allow_nan=False)) == table


# A model on a data set.


def oracle(items, scenes):
    """Confusion by the rule of the network, in NumPy."""
    total = np.zeros((4, 4), np.int64)
    for item in items:
        image, mask, valid = scenes.read(item)
        predicted = np.abs(image[0, ..., None] / 255 - np.array([0.125, 0.5, 0.875, 9.0])).argmin(-1)
        total += counted(predicted, mask if valid is None else np.where(valid, mask, IGNORE), 4)
    return total


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluate(workers):
    scenes = Scenes()
    scores = evaluate(build_model(), scenes, scenes.items("val"), workers=workers)
    assert scores.classes == CLASSES and scores.confusion.dtype == np.int64
    assert np.array_equal(scores.confusion, oracle(scenes.items("val"), scenes))
    assert np.isnan(scores.iou[3]) and not np.isnan(scores.iou[:3]).any()


@pytest.mark.parametrize(
    "inference", [{"window": (4, 5)}, {"flip": True}, {"window": (4, 4), "stride": 0.5, "flip": True}]
)
def test_windows_and_flips_score_a_network_of_single_pixels_the_same(inference):
    scenes = Scenes()
    scores = evaluate(build_model(**inference), scenes, scenes.items("val"))
    assert np.array_equal(scores.confusion, oracle(scenes.items("val"), scenes))


def test_several_processes_count_the_same_integers(tmp_path):
    scenes, worlds = Scenes(), (3, 2)
    results = torch.multiprocessing.get_context("fork").SimpleQueue()
    group = (score_as, (worlds, tmp_path / "meeting", results), max(worlds))
    torch.multiprocessing.start_processes(*group, start_method="fork")
    found = sorted(results.get() for _ in range(sum(worlds)))
    wanted = evaluate(build_model(), scenes, scenes.items("val")).confusion.tolist()
    assert found == [(world, rank, wanted, "int64") for world in sorted(worlds) for rank in range(world)]


def test_parts_of_the_items_add_up_and_a_part_may_be_empty():
    scenes = Scenes()
    items = scenes.items("val")
    parts = [evaluate(build_model(), scenes, items, rank=rank, world=7).confusion for rank in range(7)]
    assert parts[6].sum() == 0 and np.array_equal(sum(parts), oracle(items, scenes))


def test_an_item_without_mask():
    with pytest.raises(DataError, match="7 has no mask"):
        evaluate(build_model(), Scenes(), [Item("7", "7")])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image(workers):
    with pytest.raises(DataError) as caught:
        evaluate(build_model(), Scenes(), [Item("0", "0", "0"), Item("x", "broken", "x")], workers=workers)
    assert str(caught.value) == "broken cannot be decoded."


def test_images_come_in_order_whatever_the_workers():
    scenes = Scenes()
    items = scenes.items("val")
    for workers in (0, 2):
        found = list(read_images(scenes, items, workers))
        assert [item for item, _ in found] == items
        assert all(np.array_equal(s.image, scenes.read(item).image) for item, s in found)


def test_an_unreadable_image_does_not_stop_the_others():
    items = [Item("0", "0", "0"), Item("x", "broken", "x"), Item("1", "1", "1")]
    assert [isinstance(sample, DataError) for _, sample in read_images(Scenes(), items, 0)] == [False, True, False]


def test_no_loader_process_outlives_a_killed_one(tmp_path):
    """They hold a pipe; its other end reads the end of the file when the last of them is gone."""

    class Large:
        classes = ("a", "b")

        def read(self, item, window=None):  # more than a pipe takes, so that a loader process waits for a reader
            return Sample(np.zeros((3, 1024, 1024), np.uint8))

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for _ in read_images(Large(), [Item(str(n), "x") for n in range(40)], 2):
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert select.select([reader], [], [], 60)[0] and os.read(reader, 1) == b""
    os.close(reader)


# Several images and several models at once.


class Neighbors(nn.Module):
    """Logits of a pixel, its neighbors and its place, rounded alike in every batch; notes the batches."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign, self.batches = nn.Parameter(torch.tensor(sign)), []

    def forward(self, images):
        self.batches.append(tuple(images.shape))
        gray = images[:, :1]
        slope = torch.linspace(0, 1, images.shape[-1]).expand_as(gray)
        views = [gray, gray.roll(1, -1), gray.roll(1, -2) + 0.1, slope]
        return Prediction(self.sign * torch.cat(views, 1), None)


def neighbors(sign=1.0, **settings):
    return Model(Neighbors(sign), build_model(**settings).card)


class ManyScenes(Scenes):
    """Eleven scenes of two sizes; notes what is read."""

    def __init__(self):
        self.read_names = []

    def items(self, split):
        return [Item(str(n), str(n), str(n)) for n in range(11)]

    def size(self, item):
        return (7, 9) if int(item.id) % 3 else (6, 8)

    def read(self, item, window=None):
        self.read_names.append(item.image)
        return super().read(item, window)


SETTINGS = [
    {},
    {"flip": True},
    {"scales": (0.5, 1.0, 1.5)},
    {"window": (4, 5)},
    {"window": (4, 4), "stride": 0.5, "flip": True, "scales": (1.0, 1.25)},
]


@pytest.mark.parametrize("limit", [1, 150, 2**18])
@pytest.mark.parametrize("settings", SETTINGS)
def test_images_together_score_as_one_by_one(settings, limit, monkeypatch):
    scenes, wanted = ManyScenes(), np.zeros((4, 4), np.int64)
    for item in scenes.items("val"):
        image, mask, valid = scenes.read(item)
        probs = neighbors(**settings).probs(image).numpy()
        wanted += counted(probs.argmax(0), mask if valid is None else np.where(valid, mask, IGNORE), 4)
    monkeypatch.setattr("farcluss.inference.probs.CPU_PIXELS", limit)
    model = neighbors(**settings)
    assert np.array_equal(evaluate(model, scenes, scenes.items("val")).confusion, wanted)
    sizes = [batch[0] for batch in model.network.batches]
    assert max(sizes) == 1 if limit == 1 else max(sizes) > 1
    assert all(batch[0] == 1 or batch[0] * batch[2] * batch[3] <= limit for batch in model.network.batches)


def test_several_models_are_scored_in_one_pass():
    models = [neighbors(), neighbors(-1.0), neighbors(flip=True)]
    apart = [evaluate(model, ManyScenes(), ManyScenes().items("val")).confusion.tolist() for model in models]
    scenes = ManyScenes()
    together = evaluate_all(models, scenes, scenes.items("val"))
    assert [scores.confusion.tolist() for scores in together] == apart
    assert apart[0] != apart[1] and sorted(scenes.read_names, key=int) == [str(n) for n in range(11)]


class Fragile(Neighbors):
    """Fails with every batch that has an image whose first pixel is of a certain value, as by running out of memory."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, images):
        if (images[:, 0, 0, 0] == self.first).any():
            raise RuntimeError("not enough memory")
        return super().forward(images)


@pytest.mark.parametrize("workers", [0, 1])
def test_only_images_that_fail_themselves_are_left_out(workers):
    """Not those in one batch with them, and not those behind an unreadable one."""
    scenes = ManyScenes()
    first = torch.from_numpy(scenes.read(Item("4", "4", "4")).image).float().div(255)[0, 0, 0]
    model, failed = Model(Fragile(first), neighbors().card), []
    items = [*scenes.items("val")[:3], Item("0", "broken", "0"), *scenes.items("val")[3:]]
    found = evaluate(model, scenes, items, workers=workers, on_error=lambda *failure: failed.append(failure))
    assert sorted((item.image, str(error)) for item, error in failed) == [
        ("4", "not enough memory"), ("broken", "broken cannot be decoded."),
    ]  # fmt: skip
    others = [item for item in scenes.items("val") if item.image != "4"]
    assert np.array_equal(found.confusion, evaluate(neighbors(), scenes, others).confusion)
    with pytest.raises(RuntimeError, match="not enough memory"):
        evaluate(model, scenes, scenes.items("val"))


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function.name().partition(".")[0]] += 1
        return function(*args, **(kwargs or {}))

    def waiting(self):
        """How often the host would wait for a GPU; an index may be a mask, which is searched for its elements."""
        names = ("index", "nonzero", "masked_select", "_local_scalar_dense", "equal", "bincount")
        return sum(self.count[f"aten::{name}"] for name in names)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_host_waits_for_the_device_no_more_often_with_more_images(settings):
    scenes, waits = Scenes(), []
    for number in (1, 5):  # of different sizes
        with Operations() as noted:
            evaluate(build_model(**settings), scenes, scenes.items("val")[:number])
        assert noted.count["aten::index_add_"] == number
        waits.append(noted.waiting())
    assert waits == [1, 1]  # the loader's seed


def test_waiting_is_noticed():
    mask = torch.tensor([1, 255])
    with Operations() as noted:
        torch.bincount(mask[mask != IGNORE]).max().item()
    assert noted.waiting() == 3


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.booleans()), max_size=30), st.integers(0, 12))
def test_groups_hold_each_scene_once_and_are_of_one_size(shapes, limit):
    scenes = [
        LabeledImage(
            torch.full((1, rows, columns), n, dtype=torch.float32 if deep else torch.uint8), torch.zeros(rows, columns)
        )
        for n, (rows, columns, deep) in enumerate(shapes)
    ]
    taken = []

    def arriving():
        for scene in scenes:
            taken.append(scene)
            yield Item("", ""), scene

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farcluss.inference.probs.CPU_PIXELS", limit)
        patch.setattr("farcluss.inference.evaluation.HELD", 10)
        patch.setattr("farcluss.inference.evaluation.HELD_IMAGES", 5)
        given_back = []
        for pairs in group_by_size(arriving(), torch.device("cpu")):
            group = [scene for _, scene in pairs]
            assert len({(each.image.shape, each.image.dtype) for each in group}) == 1
            assert len(group) == 1 or len(group) * group[0].mask.numel() <= limit
            given_back += group
            waiting = [each for each in taken if not any(each is other for other in given_back)]
            assert len(waiting) <= 5 and sum(each.mask.numel() for each in waiting) <= 10
    assert sorted(int(each.image.flatten()[0]) for each in given_back) == list(range(len(scenes)))


@pytest.mark.parametrize("after", [0, 1, 7, 11])
def test_an_evaluation_can_be_cancelled_before_each_image(after):
    scenes, asked = ManyScenes(), []

    def cancelled():
        asked.append(len(scenes.read_names))
        return len(asked) > after

    with pytest.raises(Cancelled):
        evaluate(neighbors(), scenes, scenes.items("val"), cancelled=cancelled)
    assert len(asked) == after + 1 and asked[:11] == list(range(1, min(after + 1, 11) + 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_image_that_cannot_be_scored_is_named(workers):
    items = [*ManyScenes().items("val")[:4], Item("4", "4"), *ManyScenes().items("val")[5:]]
    with pytest.raises(SampleError, match=r"^4 has no mask, so it cannot be evaluated\.$"):
        evaluate(neighbors(), Scenes(), items, workers=workers)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    """Neither results nor their order, nor how many threads PyTorch has afterwards, by an error too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model, seen = neighbors(), []
        model.network.train()
        scores = evaluate(model, ManyScenes(), ManyScenes().items("val"))
        assert model.network.training and torch.get_num_threads() == threads

        def half(number):
            seen.append((number, threading.get_ident(), torch.get_num_threads()))
            return 1 // (number - 20) if number > 19 else number / 2

        def large(number):
            return number in (0, 3, 4, 19)

        assert list(map_threaded(half, iter(range(20)), lambda number: not large(number))) == [n / 2 for n in range(20)]
        here = {number for number, thread, _ in seen if thread == threading.get_ident()}
        assert here == ({0, 3, 4, 19} if threads > 1 else set(range(20)))
        assert all(count == (threads if large(number) else 1) for number, _, count in seen)
        with pytest.raises(ZeroDivisionError):
            list(map_threaded(half, range(30), lambda number: True))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    alone = evaluate(neighbors(), ManyScenes(), ManyScenes().items("val"))
    assert np.array_equal(scores.confusion, alone.confusion)
