"""The testers of `farcluss.testing` pass what is right, and say what is wrong."""

import numpy as np
import pytest
import torch

from farcluss.data.base import Item, Sample
from farcluss.data.shapes import Shapes
from farcluss.errors import DataError
from farcluss.stages.augment import Identity, Photometric
from farcluss.stages.base import Augment, ContrastLoss, FuzzyLabels, Mix, PixelWeight, View
from farcluss.stages.contrast import NoContrast, Prototype
from farcluss.stages.pseudo_label import Fuzzy, Hard
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import EntropyWeight, Threshold, Uniform
from farcluss.testing import (
    AugmentTester,
    ContrastTester,
    DatasetTester,
    MixTester,
    PixelWeightTester,
    PseudoLabelTester,
)


class TestIdentity(AugmentTester):
    stage = Identity


class TestPhotometric(AugmentTester):
    stage = Photometric
    dims = (2,)


class TestPhotometricMoves(AugmentTester):
    stage = Photometric
    options = {"degrees": 20.0, "translate": 0.1, "zoom": (0.5, 1.5), "views": 2}
    dims = (2,)


class TestFuzzy(PseudoLabelTester):
    stage = Fuzzy


class TestHard(PseudoLabelTester):
    stage = Hard


class TestEntropy(PixelWeightTester):
    stage = EntropyWeight
    options = {"form": "exp", "beta": 2.0, "gate": True}
    largest = 1.0


class TestThreshold(PixelWeightTester):
    stage = Threshold


class TestUniform(PixelWeightTester):
    stage = Uniform
    largest = 1.0


class TestMedianFrequency(PixelWeightTester):
    stage = MedianFrequency


class TestMedianFrequencyBounded(PixelWeightTester):
    stage = MedianFrequency
    options = {"count": "soft", "apply": "expected", "max_weight": 10.0, "normalize": "mean"}


class TestPrototype(ContrastTester):
    stage = Prototype
    options = {"include_labeled": True, "min_weight": 0.1, "repulsion": 0.1}


class TestNoContrast(ContrastTester):
    stage = NoContrast


class TestShapes(DatasetTester):
    dataset = Shapes
    options = {"train": 4, "val": 2, "test": 2, "size": 16}
    splits = ("train", "val", "test")


def failures(tester, **attributes):
    """Names of the tests that a plugin fails, with their messages."""
    it = type("It", (tester,), attributes)()
    found = {}
    for name in dir(it):
        if name.startswith("test_"):
            try:
                getattr(it, name)()
            except AssertionError as error:
                found[name] = str(error)
    return found


def weight(function, base=PixelWeight):
    """A weight stage class of one function."""
    return type("Bad", (base,), {"pixels": lambda self, labels, summed: function(labels)})


@pytest.mark.parametrize(
    ("function", "test", "text"),
    [
        (lambda q: q.confidence.unsqueeze(1), "test_shapes_and_dtypes", "not (2, 6, 8)"),
        (lambda q: q.confidence.double(), "test_shapes_and_dtypes", "torch.float64, not torch.float32"),
        (lambda q: q.confidence / (q.classes[:, 0] - 1), "test_contract", "not finite"),
        (lambda q: -q.confidence, "test_contract", "not in [0, inf]"),
        (lambda q: 2 + q.confidence, "test_contract", "not in [0, 1.0]"),
        (lambda q: q.confidence.cumsum(1) / 100, "test_two_d_equals_three_d", "values differ"),
        (lambda q: q.confidence.mul_(0.5), "test_does_not_change_its_input", "modifies its input"),
        (lambda q: q.confidence / q.confidence.max(), "test_parts_of_a_batch", "values differ"),
        (lambda q: q.confidence * q.valid.float().mean(), "test_parts_of_a_batch", "values differ"),
    ],
)
def test_bad_weights(function, test, text):
    limits = {"largest": 1.0} if "1.0]" in text else {}
    assert text in failures(PixelWeightTester, stage=weight(function), **limits)[test]


def test_state_outside_of_buffers():
    class Forgetful(PixelWeight):
        calls = 0

        def absorb(self, summed):
            self.calls += 1

        def pixels(self, labels, summed):
            return labels.confidence / self.calls

    class Remembers(PixelWeight):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.ones(()))

        def absorb(self, summed):
            self.calls += 1

        def pixels(self, labels, summed):
            return labels.confidence / self.calls

    name = "test_state_dict_round_trip"
    assert "keep state in buffers" in failures(PixelWeightTester, stage=Forgetful)[name]
    assert name not in failures(PixelWeightTester, stage=Remembers)


def test_bad_constructors():
    class Silent(PixelWeight):
        """No word on power."""

        def __init__(self, *, power: float = 1.0, size: int):
            super().__init__()

        def pixels(self, labels, summed):
            return labels.confidence

    found = failures(PixelWeightTester, stage=Silent, options={"power": "big"})
    assert "power" in found["test_contract"] and "size" in found["test_contract"]
    assert "option power has no line" in found["test_options_are_documented"]
    other = weight(lambda labels: labels.confidence, torch.nn.Module)
    it = type("It", (PixelWeightTester,), {"stage": other})()
    with pytest.raises(AssertionError) as caught:
        it.test_is_of_its_kind()
    said = str(caught.value)
    assert "is not a farcluss.stages.base.PixelWeight" in said


def labels_with(change):
    class Bad(Fuzzy):
        def forward(self, probs):
            return FuzzyLabels(*change(*super().forward(probs), probs.shape[1]))

    return Bad


@pytest.mark.parametrize(
    ("change", "test", "text"),
    [
        (lambda v, c, n: (v.exp(), c), "test_contract", "sum of values"),
        (lambda v, c, n: (v.flip(1), c.flip(1)), "test_contract", "do not descend"),
        (lambda v, c, n: (v, c + n), "test_contract", "not in [0, 4]"),
        (lambda v, c, n: (v, c * 0), "test_contract", "kept twice"),
        (lambda v, c, n: (v, c.float()), "test_shapes_and_dtypes", "classes is torch.float32"),
    ],
)
def test_bad_labels(change, test, text):
    assert text in failures(PseudoLabelTester, stage=labels_with(change))[test]


def test_bad_statistics():
    class CountsAll(MedianFrequency):
        def statistics(self, labels, classes):
            return super().statistics(labels.map(lambda t: t | True if t.dtype == torch.bool else t), classes)

    class Averages(MedianFrequency):
        def statistics(self, labels, classes):
            return super().statistics(labels, classes) / labels.valid.sum()

    class Divides(MedianFrequency):
        def class_weights(self, summed):
            return (1 / summed[0]).float()

        def pixels(self, labels, summed):
            return self.class_weights(summed)[labels.classes[:, 0] * 0 + 4]

    class Means(Uniform):
        def labeled_statistics(self, logits, masks, known):
            return logits.mean()

    assert "test_invalid_pixels_do_not_matter" in failures(PixelWeightTester, stage=CountsAll)
    assert "test_statistics_add_up" in failures(PixelWeightTester, stage=Averages)
    assert "two classes" in failures(PixelWeightTester, stage=Divides)["test_contract"]
    assert "test_labeled_statistics_add_up" in failures(PixelWeightTester, stage=Means)


def test_bad_contrast():
    def bad(function):
        class Bad(Prototype):
            def forward(self, embeddings, anchors, classes):
                return function(super().forward, embeddings, anchors, classes)

        return Bad

    cut = bad(lambda forward, e, a, c: forward(e.detach(), a, c))
    assert "no graph" in failures(ContrastTester, stage=cut)["test_zero_without_confident_pixels"]
    blind = bad(lambda forward, e, a, c: forward(e, a._replace(valid=a.valid | True), c))
    assert "test_invalid_pixels_do_not_matter" in failures(ContrastTester, stage=blind)
    always = bad(lambda forward, e, a, c: ContrastLoss(e.square().mean(), e.new_zeros(())))
    assert "no confident pixel" in failures(ContrastTester, stage=always)["test_zero_without_confident_pixels"]
    blind_to_kind = bad(lambda forward, e, a, c: forward(e, a._replace(labeled=a.labeled & False), c))
    name = "test_labeled_pixels_do_not_matter_unless_included"
    assert "labeled pixels" in failures(ContrastTester, stage=blind_to_kind)[name]
    nothing = bad(lambda forward, e, a, c: ContrastLoss(e.sum() * 0, e.new_zeros(())))
    assert "get no gradient" in failures(ContrastTester, stage=nothing)["test_contract"]


def views_of(images=lambda images: images, labels=lambda labels: labels):
    """An augment and a mix stage class that change images and labels of the weak view."""

    class BadAugment(Augment):
        def strong(self, scene):
            return (View(images(scene.weak.images), labels(scene.weak.labels)),)

    class BadMix(Mix):
        def forward(self, view, scene):
            return View(images(view.images), labels(view.labels))

    return {AugmentTester: BadAugment, MixTester: BadMix}


@pytest.mark.parametrize("tester", [AugmentTester, MixTester])
def test_bad_views(tester):
    def found(**changes):
        return failures(tester, stage=views_of(**changes)[tester])

    def only(**changes):
        return lambda labels: type(labels)(**{**vars(labels), **{k: f(vars(labels)[k]) for k, f in changes.items()}})

    assert found() == {}
    assert "not in [0, 1]" in found(images=lambda i: i + 1)["test_shapes_and_dtypes"]
    assert "torch.float32" in found(labels=only(classes=lambda t: t.float()))["test_shapes_and_dtypes"]
    forgets = found(labels=only(classes=lambda t: t.roll(1, 2), values=lambda t: t.roll(1, 2)))
    assert "confidence against class" in forgets["test_contract"]
    assert "new classes" in found(labels=only(classes=lambda t: t * 0 + 2))["test_contract"]
    revives = found(labels=only(valid=lambda t: t | True))
    assert "invalid pixels valid" in revives["test_invalid_pixels_do_not_matter"]
    assert "test_same_random_state_gives_same_views" in found(images=lambda i: i * np.random.rand())


def test_a_bad_weak_view():
    class Shrinks(Augment):
        def weak(self, images, valid):
            return images[..., :3]

        def strong(self, scene):
            return (scene.weak,)

    class Single(Shrinks):
        def strong(self, scene):
            return scene.weak

    assert "weak view has shape" in failures(AugmentTester, stage=Shrinks)["test_the_weak_view_keeps_its_shape"]
    assert "a view is a Tensor" in failures(AugmentTester, stage=Single)["test_shapes_and_dtypes"]


class Good:
    """A data set of two images per split."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (255, 0, 0))

    def __init__(self, data):
        self.root = str(data.root.absolute())

    def items(self, split):
        if split not in ("train", "val"):
            raise DataError("no such split")
        return [self.parse(f"{split}/{number}") for number in (0, 1)]

    def parse(self, line):
        return Item(line, line, line)

    def size(self, item):
        return (8, 6)

    def read(self, item, window=None):
        image, mask = np.ones((3, 8, 6), np.uint8), np.arange(48, dtype=np.uint8).reshape(8, 6) % 2
        return Sample(image, mask) if window is None else Sample(image[:, *window], mask[window])


HOLE = np.arange(48).reshape(8, 6) < 5
NODATA = Sample(np.where(HOLE, np.float32(np.nan), np.float32(0.5)) + np.zeros((3, 1, 1), np.float32), None, ~HOLE)


def pixel_counts(counts, bare):
    """What a data set counts of items with a mask and without."""
    return {"pixel_counts": lambda self, item: np.array(counts if item.mask else bare)}


@pytest.mark.parametrize(
    ("changes", "test", "text"),
    [
        ({"palette": ((0, 0, 0),)}, "test_classes_and_palette", "differ in length"),
        ({"palette": ((0, 0, 0), (0, 0, 256))}, "test_classes_and_palette", "not an RGB color"),
        ({"items": lambda self, split: [Item("a", "a", "a")]}, "test_items", "an id occurs twice"),
        (
            {"items": lambda self, split: [Item(f"{self.root}/{split}", split, split)]},
            "test_items",
            "ids must not depend on it",
        ),
        ({"items": lambda self, split: [Item(split, split, split)]}, "test_items", "does not raise"),
        ({"parse": lambda self, line: Item(line * 2, line, line)}, "test_parse", "returns item"),
        ({"size": lambda self, item: (6, 8)}, "test_shapes_and_dtypes", "size() says (6, 8)"),
        ({"read": lambda self, item, window=None: Good.read(self, item)}, "test_window", "image differs"),
        (
            {
                "read": lambda self, item, window=None: Sample(
                    np.ones((3, 8, 6), np.uint8), np.full((8, 6), 2, np.uint8)
                )
            },
            "test_shapes_and_dtypes",
            "mask holds {2}; classes end at 1",
        ),
        (
            {"read": lambda self, item, window=None: Sample(np.full((3, 8, 6), 255, np.float32))},
            "test_shapes_and_dtypes",
            "not in [0, 1]",
        ),
        (
            {"read": lambda self, item, window=None: Sample(np.full((3, 8, 6), np.nan, np.float32))},
            "test_shapes_and_dtypes",
            "NaN",
        ),
        (
            {"read": lambda self, item, window=None: NODATA},
            "test_shapes_and_dtypes",
            "finite even at invalid pixels",
        ),
        (pixel_counts([48, 24, 24], [48, 24, 24]), "test_pixel_counts", "a mask that the item does not have"),
        (pixel_counts([48, 24, 24], [24, 0, 0]), "test_pixel_counts", "depends on the mask"),
        (pixel_counts([48, 24, 25], [48, 0, 0]), "test_pixel_counts", "more pixels have a class"),
        (pixel_counts([48, 24, -1], [48, 0, 0]), "test_pixel_counts", "negative numbers"),
        (pixel_counts([48.0, 24, 24], [48, 0, 0]), "test_pixel_counts", "returns float64 (3,), not int64 (3,)"),
        (pixel_counts([48, 24], [48, 0]), "test_pixel_counts", "returns int64 (2,)"),
        (
            {"read": lambda self, item, window=None: Sample(np.random.randint(9, size=(3, 8, 6)).astype(np.uint8))},
            "test_shapes_and_dtypes",
            "disagree about a mask",
        ),
    ],
)
def test_bad_datasets(changes, test, text):
    found = failures(DatasetTester, dataset=type("Bad", (Good,), changes))
    assert text in found[test]
    assert (
        "cannot be sent to a worker" in found["test_works_in_workers"]
    )  # a class made in a function cannot be pickled


def test_a_good_dataset_passes():
    assert failures(DatasetTester, dataset=Good) == {}


class Standardized(Good):
    """Float images of which some are negative."""

    def read(self, item, window=None):
        sample = super().read(item, window)
        return sample._replace(image=np.float32(3) - 5 * sample.image)


class Counting(Good):
    """It knows how many pixels of its images are valid, and of each class."""

    def read(self, item, window=None):
        sample = super().read(item)._replace(valid=~HOLE)
        return sample if window is None else Sample(sample.image[:, *window], sample.mask[window], ~HOLE[window])

    def pixel_counts(self, item):
        return np.array([43, 21, 22] if item.mask else [43, 0, 0])


def test_a_data_set_that_counts_pixels_passes():
    assert failures(DatasetTester, dataset=Counting) == {}


def test_floats_of_another_range_pass_where_the_tester_says_so():
    assert failures(DatasetTester, dataset=Standardized, unit_range=False) == {}
    assert "not in [0, 1]" in failures(DatasetTester, dataset=Standardized)["test_shapes_and_dtypes"]
