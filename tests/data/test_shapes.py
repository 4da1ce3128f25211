import numpy as np
import pytest

from farcluss.data.shapes import Shapes
from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss.recipes.model import Data


def arrays(dataset, split="train", count=None):
    return [dataset.read(item) for item in dataset.items(split)[:count]]


def test_a_scene_is_a_function_of_seed_split_and_index():
    first, second = Shapes(Data(), train=5), Shapes(Data(root="elsewhere"), train=50, val=3)
    for item in first.items("train"):
        one, two = first.read(item), second.read(item)
        assert np.array_equal(one.image, two.image) and np.array_equal(one.mask, two.mask)
        assert one.image.shape == (3, 64, 64) and one.image.dtype == one.mask.dtype == np.uint8
    assert first.size(item) == (64, 64)


def test_seeds_splits_and_indices_give_other_scenes():
    sets = [Shapes(Data(), train=20, val=20, test=20, seed=seed) for seed in (0, 1)]
    images = [sample.image.tobytes() for d in sets for split in ("train", "val", "test") for sample in arrays(d, split)]
    assert len(set(images)) == 2 * 3 * 20


def test_classes_are_long_tailed_in_their_order_and_every_one_occurs():
    samples = arrays(Shapes(Data()), count=200)
    pixels = np.sum([np.bincount(s.mask.ravel(), minlength=6) for s in samples], 0)
    assert len(pixels) == 6 and (np.diff(pixels) < 0).all()
    assert pixels[0] > 0.4 * pixels.sum() and 0 < pixels[5] < 0.05 * pixels.sum()
    images = np.sum([np.bincount(np.unique(s.mask), minlength=6) for s in samples], 0)
    assert images[5] >= 20


def test_borders_are_ambiguous():
    # A hard edge would show its whole contrast between two neighbors; here it takes several pixels.
    near, far = [], []
    for sample in arrays(Shapes(Data(), size=128), count=20):
        rows, columns = np.nonzero(sample.mask[:, 3:-4] != sample.mask[:, 4:-3])
        image = sample.image.astype(float)
        near.append(np.abs(image[:, rows, columns + 3] - image[:, rows, columns + 4]).mean())
        far.append(np.abs(image[:, rows, columns] - image[:, rows, columns + 7]).mean())
    assert np.mean(near) < 0.6 * np.mean(far)


def test_color_tells_the_class_as_much_as_the_option_says():
    def spread(color):
        samples = arrays(Shapes(Data(), color=color), count=60)
        means = np.array([s.image[:, s.mask == 1].mean(1) for s in samples if (s.mask == 1).any()])
        return means.std(0).mean()

    assert spread(1.0) < spread(0.5) < spread(0.0)


@pytest.mark.parametrize("size", [17, 64])
def test_a_window_is_a_slice_of_the_scene(size):
    dataset = Shapes(Data(), size=size)
    item, window = dataset.items("val")[3], (slice(2, 9), slice(5, 16))
    whole, part = dataset.read(item), dataset.read(item, window)
    assert np.array_equal(part.image, whole.image[:, *window]) and np.array_equal(part.mask, whole.mask[window])


def test_splits_are_disjoint_and_counted():
    dataset = Shapes(Data(), train=7, val=5, test=3)
    ids = {split: [item.id for item in dataset.items(split)] for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in ids.items()} == {"train": 7, "val": 5, "test": 3}
    assert len({name for names in ids.values() for name in names}) == 15
    splits = resolve(dataset, Data(labeled="1/3"))
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.val)) == (2, 5, 5)


def test_lines():
    dataset = Shapes(Data(), train=7)
    assert dataset.parse(" train/0003\n") == dataset.parse("train/3") == dataset.items("train")[3]
    for line in ("train/0007", "train/x", "train", "none/0001", "", "train/-1"):
        with pytest.raises(DataError) as caught:
            dataset.parse(line)
        assert repr(line) in str(caught.value)
    with pytest.raises(DataError, match="train, val, test"):
        dataset.items("none")
