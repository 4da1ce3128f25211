"""What plugins must not give: refused by name, in one line, whatever it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_learner import make, make_batch
from tiny_network import TinyNetwork

from farcluss.data.base import Item, Sample, read_sample
from farcluss.errors import DataError, PluginError
from farcluss.learning.learner import Learner
from farcluss.networks.base import Prediction
from farcluss.stages.augment import Identity
from farcluss.stages.mix import NoMix
from farcluss.stages.pseudo_label import Fuzzy
from farcluss.stages.weight import Uniform

IMAGE = np.zeros((3, 4, 5), np.uint8)


class Given:
    """A data set that gives what it is told to."""

    classes, palette = ("a", "b"), ((0, 0, 0), (1, 1, 1))

    def __init__(self, sample):
        self.sample = sample

    def read(self, item, window=None):
        if isinstance(self.sample, Exception):
            raise self.sample
        return self.sample


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample(IMAGE.astype(np.float64), np.zeros((4, 5), np.uint8)), "the image is float64"),
        (Sample(IMAGE, np.zeros((5, 4), np.uint8)), r"mask has shape \(5, 4\)"),
        (Sample(IMAGE, np.zeros((4, 5), np.uint8), np.ones((4, 4), bool)), r"valid has shape \(4, 4\)"),
        (Sample(IMAGE, np.full((4, 5), 2, np.uint8)), "the mask holds 2, but there are 2 classes"),
        (Sample(IMAGE), "reading returned no mask"),
        (ZeroDivisionError("oh"), "reading fails: ZeroDivisionError: oh"),
        (AttributeError("no such thing"), "reading fails: AttributeError: no such thing"),
    ],
)
def test_samples(sample, words):
    with pytest.raises(PluginError, match=f"Data set Given, item x: .*{words}") as caught:
        read_sample(Given(sample), Item("x", "x", "x"))
    assert len(str(caught.value).splitlines()) == 1


def test_good_samples_and_errors_of_files_pass():
    sample = Sample(IMAGE, np.full((4, 5), 255, np.uint8))
    assert read_sample(Given(sample), Item("x", "x", "x")) is sample
    with pytest.raises(DataError, match=r"^lost$"):
        read_sample(Given(DataError("lost")), Item("x", "x"))


def test_masks_do_not_count_where_the_image_is_not_valid():
    rng = np.random.default_rng(0)
    mask, valid = rng.integers(0, 2, (4, 5), np.uint8), rng.random((4, 5)) < 0.5
    given = Sample(IMAGE, mask, valid)
    found = read_sample(Given(given), Item("x", "x", "x"))
    assert found.mask.dtype == np.uint8 and np.array_equal(found.mask, np.where(valid, mask, 255))
    assert found.image is IMAGE and found.valid is valid and np.array_equal(given.mask, mask)
    assert read_sample(Given(given), Item("x", "x")).mask is None
    beneath = Sample(IMAGE, np.where(valid, 0, 2).astype(np.uint8), valid)
    with pytest.raises(PluginError, match="the mask holds 2"):
        read_sample(Given(beneath), Item("x", "x", "x"))


class Raises(Uniform):
    def statistics(self, labels, classes):
        return {}["nothing"]


class Bare(Fuzzy):
    def forward(self, probs):
        return super().forward(probs).values


class NoViews(Identity):
    def strong(self, scene):
        return scene.weak.images


class OneView(Identity):
    def strong(self, scene):
        return scene.weak


class Emptied(Identity):
    def strong(self, scene):
        return ()


class Halves(NoMix):
    def forward(self, view, scene):
        return view._replace(labels=replace(view.labels, valid=view.labels.valid[:1]))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"weight": Raises()}, "Plugin weight/Raises fails: KeyError: 'nothing'"),
        ({"pseudo_label": Bare()}, "Plugin pseudo_label/Bare returns a Tensor, not a FuzzyLabels"),
        ({"augment": NoViews()}, "Plugin augment/NoViews returns a Tensor, not a tuple"),
        (
            {"augment": OneView()},
            r"Plugin augment/OneView returns \(Tensor, PseudoLabels, .*\), not views; see docs",
        ),
        ({"augment": Emptied()}, r"Plugin augment/Emptied returns \(\), not views; see docs"),
        ({"mix": Halves()}, r"Plugin mix/Halves returns valid of labels of shape \(1, 6, 7\), not \(2, 6, 7\)"),
    ],
)
def test_stages(stages, words):
    learner, batch = make(**stages), make_batch()
    with pytest.raises(PluginError, match=words):
        learner.pseudo_label(batch)


class OneTooMany(TinyNetwork):
    def forward(self, images):
        prediction = super().forward(images)
        return prediction._replace(logits=torch.cat([prediction.logits, prediction.logits[:, :1]], 1))


class Headless(TinyNetwork):
    def forward(self, images):
        return super().forward(images)._replace(embeddings=None)


class Plain(TinyNetwork):
    def forward(self, images):
        return super().forward(images).logits


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (OneTooMany, r"Plugin network returns logits of shape \(2, 5, 6, 7\), not \(2, 4, 6, 7\)"),
        (Headless, "returns no embeddings, which contrast/Prototype needs"),
        (Plain, "returns a Tensor, not a Prediction"),
    ],
)
def test_networks(network, words):
    whole, batch = make(), make_batch()
    teacher = network(2, 4, 3, False).double()
    learner = Learner(whole.student, teacher, whole.stages, whole.normalize, whole.loss, whole.classes)
    assert isinstance(learner.student(batch.images), Prediction)
    with pytest.raises(PluginError, match=words):
        learner.pseudo_label(batch)
