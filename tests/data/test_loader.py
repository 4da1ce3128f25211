import pickle
from collections import Counter
from dataclasses import replace
from math import ceil, floor
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from farcluss.data.base import IGNORE, Item, Sample
from farcluss.data.folder import folder
from farcluss.data.loader import (
    LABELED,
    UNLABELED,
    Address,
    Drawn,
    PairedCrops,
    collate,
    host_batches,
    item_index,
    step_addresses,
)
from farcluss.data.shapes import Shapes
from farcluss.data.weighting import Chances
from farcluss.errors import DataError
from farcluss.recipes.model import Data

BOTH = (LABELED, UNLABELED)
SETTINGS = Data(crop=16)


@pytest.fixture
def crops():
    dataset = Shapes(SETTINGS, train=12, size=24)
    items = dataset.items("train")
    return PairedCrops(dataset, (items[:4], items[4:]), SETTINGS, (16, 16), 4, 3)


def load(crops, first=0, last=2, rank=0, world=1, workers=0, streams=BOTH):
    addresses = step_addresses(first, last, crops.batch, streams, rank, world)
    return list(host_batches(crops, addresses, workers, False))


def equal(one, two):
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(one, two, strict=True))


def by_slot(batches, crops, first, rank, world):
    """(step, stream, slot) -> image and mask, from the batches of one process."""
    found, size = {}, crops.batch // world
    for step, batch in enumerate(batches, first):
        assert len(batch.images) == 2 * size
        for place in range(2 * size):
            stream, slot = divmod(place, size)
            key = step, stream, rank * size + slot
            found[key] = (batch.ids[place], batch.images[place].numpy().tobytes(), batch.masks[place].numpy().tobytes())
    return found


def test_a_batch(crops):
    (batch,) = load(crops, last=1)
    assert batch.images.shape == (8, 3, 16, 16) and batch.images.dtype == torch.uint8
    assert batch.masks.shape == batch.valid.shape == (8, 16, 16)
    assert batch.masks.dtype == torch.uint8 and batch.valid.dtype == torch.bool
    assert batch.labeled == 4 and batch.error == ""
    labeled = {item.id for item in crops.items[0]}
    assert [name in labeled for name in batch.ids] == [True] * 4 + [False] * 4


def test_labeled_images_alone(crops):
    (batch,) = load(crops, last=1, streams=(LABELED,))
    assert batch.labeled == len(batch.images) == 4
    both = load(crops, last=1)[0]
    assert torch.equal(both.images[:4], batch.images)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_is_the_union_over_processes(crops, world):
    wanted = by_slot(load(crops, 5, 7), crops, 5, 0, 1)
    found = {}
    for rank in range(world):
        part = by_slot(load(crops, 5, 7, rank, world), crops, 5, rank, world)
        assert not found.keys() & part.keys()
        found |= part
    assert found == wanted and len(wanted) == 2 * 2 * 4


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4), st.integers(1, 12), st.integers(0, 50), st.integers(1, 4), st.sampled_from([(LABELED,), BOTH])
)  # fmt: skip
def test_addresses_name_every_slot_once(world, size, first, steps, streams):
    batch = world * size
    found = Counter()
    for rank in range(world):
        shares = list(step_addresses(first, first + steps, batch, streams, rank, world))
        assert len(shares) == steps and all(len(share) == size * len(streams) for share in shares)
        assert all([a.stream for a in share] == sorted(a.stream for a in share) for share in shares)
        assert all({a.step for a in share} == {first + n} for n, share in enumerate(shares))
        found.update(address for share in shares for address in share)
    wanted = [Address(s, t, i) for s in streams for t in range(first, first + steps) for i in range(batch)]
    assert found == Counter(wanted)


def test_workers_change_nothing(crops):
    for one, two in zip(load(crops, 0, 3), load(crops, 0, 3, workers=2), strict=True):
        assert equal(one, two)


def test_starting_at_a_step_gives_what_running_to_it_gives(crops):
    whole = load(crops, 0, 6)
    for step in (0, 3, 5):
        resumed = load(crops, step, 6)
        assert len(resumed) == len(whole[step:])
        assert all(equal(a, b) for a, b in zip(whole[step:], resumed, strict=True))


def test_steps_slots_streams_and_seeds_draw_differently(crops):
    whole = load(crops, 0, 6)
    images = [image.numpy().tobytes() for batch in whole for image in batch.images]
    assert len(set(images)) == len(images)
    other = PairedCrops(crops.dataset, crops.items, crops.data, crops.crop, crops.batch, 4)
    assert [b.ids for b in load(other, 0, 6)] != [b.ids for b in whole]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 1), st.integers(0, 3))
def test_every_epoch_has_every_item_once(count, seed, stream, epoch):
    order = [item_index(count, seed, stream, position) for position in range(epoch * count, (epoch + 1) * count)]
    assert sorted(order) == list(range(count))


def test_epochs_streams_and_seeds_are_shuffled_differently():
    def order(seed, stream, epoch):
        return tuple(item_index(30, seed, stream, position) for position in range(epoch * 30, epoch * 30 + 30))

    orders = {order(s, t, e) for s in range(3) for t in range(2) for e in range(3)}
    assert len(orders) == 18 and tuple(range(30)) not in orders


def test_the_stream_runs_through_its_items_whatever_the_batch(crops):
    names = [name for batch in load(crops, 0, 4) for name in batch.ids[4:]]  # two epochs of eight images
    wanted = {item.id for item in crops.items[1]}
    assert set(names[:8]) == set(names[8:]) == wanted


UNEQUAL = Chances(np.array([0.5, 0.3, 0.2, 0.0])), Chances(np.array([0.3, 0.3, 0.1, 0.1, 0.1, 0.06, 0.04, 0.0]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 1), st.integers(0, 3))
def test_equal_chances_give_the_order_that_no_chances_give(count, seed, stream, epoch):
    order = np.random.default_rng([seed, stream, epoch]).permutation(count).tolist()
    for chances in (None, Chances(np.full(count, 1 / count))):
        places = range(epoch * count, (epoch + 1) * count)
        assert [item_index(count, seed, stream, position, chances) for position in places] == order


def test_each_image_is_drawn_as_often_as_its_chance():
    """Over 4,000 epochs: each time its share of an epoch, rounded down or up, and in the mean the share."""
    shares = np.random.default_rng(0).dirichlet([0.3] * 11)
    chances, epochs = Chances(shares), 4000
    order = [item_index(11, 3, LABELED, position, chances) for position in range(11 * epochs)]
    times = np.stack([np.bincount(epoch, minlength=11) for epoch in np.reshape(order, (epochs, 11))])
    for share, column in zip(11 * shares, times.T, strict=True):
        assert {floor(share), ceil(share)} >= set(column.tolist())
        error = np.sqrt((share % 1) * (1 - share % 1) / epochs)
        assert abs(column.mean() - share) < 4.5 * error + 1e-6
    whole = np.reshape(order, (epochs, 11))
    assert len({tuple(epoch) for epoch in whole.tolist()}) > 0.9 * epochs  # shuffled, not in the order of the items
    assert abs((whole[:, 0] == shares.argmax()).mean() - shares.max()) < 0.05


def test_orders_by_chance_depend_on_seed_stream_and_epoch():
    chances = Chances(np.arange(1, 31) / 465)

    def order(seed, stream, epoch, chances=chances):
        places = range(epoch * 30, epoch * 30 + 30)
        return tuple(item_index(30, seed, stream, position, chances) for position in places)

    orders = {order(s, t, e): (s, t, e) for s in range(3) for t in range(2) for e in range(3)}
    assert len(orders) == 18
    again = Chances(chances.shares.copy())
    assert all(order(*address, again) == found for found, address in reversed(orders.items()))


def test_chances_leave_samples_to_their_address_alone(crops):
    """Processes, workers, a start in the midst and a copy change nothing, and what has no chance never comes."""
    crops = replace(crops, chances=UNEQUAL)
    whole = load(crops, 0, 6)
    for one, two in zip(whole, load(crops, 0, 6, workers=2), strict=True):
        assert equal(one, two)
    assert all(equal(a, b) for a, b in zip(whole[3:], load(crops, 3, 6), strict=True))
    wanted, found = by_slot(whole, crops, 0, 0, 1), {}
    for rank in range(2):
        found |= by_slot(load(crops, 0, 6, rank, 2), crops, 0, rank, 2)
    assert found == wanted
    assert all(equal(a, b) for a, b in zip(whole, load(pickle.loads(pickle.dumps(crops)), 0, 6), strict=True))
    names = Counter(name for batch in whole for name in batch.ids)
    labeled, unlabeled = crops.items
    assert names[labeled[3].id] == names[unlabeled[7].id] == 0
    assert [names[item.id] for item in labeled[:1]] == [12]  # half of the 24 draws, two in each epoch of four


def test_sixteen_bit_images_make_float_batches(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(2):
        deep = rng.integers(0, 65536, (20, 20), dtype=np.uint16)
        Image.fromarray(deep).save(tmp_path / f"images/{index}.png")
        Image.fromarray(rng.integers(0, 2, (20, 20), dtype=np.uint8)).save(tmp_path / f"masks/{index}.png")
    Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(tmp_path / "images/8bit.png")
    data = Data(root=tmp_path, classes=["a", "b"], channels=1, crop=12)
    items = folder(data).items("train")
    crops = PairedCrops(folder(data), (items[:2], items[2:]), data, (12, 12), 2, 0)
    (alone,), (mixed,) = load(crops, last=1, streams=(LABELED,)), load(crops, last=1)
    for batch in (alone, mixed):
        assert batch.images.dtype == torch.float32
        assert batch.images.min() >= 0 and 0.2 < batch.images.max() <= 1.0001
    assert torch.equal(mixed.images[:2], alone.images)
    assert 0.3 < mixed.images[2:].mean() < 0.7  # 8-bit pixels over 255
    assert (mixed.masks[2:] == IGNORE).all() and mixed.valid[2:].any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_ends_in_its_message_without_a_traceback(tmp_path, workers):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images/x.png")
    Image.new("L", (20, 20), 37).save(tmp_path / "masks/x.png")
    data = Data(root=tmp_path, classes=["a", "b"], crop=12)
    items = folder(data).items("train")
    crops = PairedCrops(folder(data), (items, items), data, (12, 12), 2, 0)
    with pytest.raises(DataError) as caught:
        load(crops, workers=workers)
    text = str(caught.value)
    assert str(tmp_path / "masks/x.png") in text and "37" in text
    assert "Traceback" not in text and len(text.splitlines()) <= 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_ends_in_its_message(tmp_path, workers):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "images/x.png").write_bytes(content[: len(content) // 2])
    data = Data(root=tmp_path, classes=["a", "b"], crop=12)
    items = folder(data).items("train")
    crops = PairedCrops(folder(data), (items, items), data, (12, 12), 2, 0)
    with pytest.raises(DataError, match=r"x\.png cannot be decoded"):
        load(crops, workers=workers)


def test_collate_stacks_what_crops_give():
    item = Item("x", "x")
    image, mask, valid = np.zeros((3, 2, 2), np.uint8), np.ones((2, 2), np.uint8), np.ones((2, 2), bool)
    samples = [
        Drawn(Address(LABELED, 0, 0), item.id, Sample(image[..., ::-1], mask[..., ::-1], valid)),
        Drawn(Address(UNLABELED, 0, 0), item.id, Sample(image, None, valid)),
    ]
    batch = collate(samples)
    assert batch.labeled == 1 and batch.ids == ["x", "x"]
    assert batch.masks[0].unique().tolist() == [1] and batch.masks[1].unique().tolist() == [IGNORE]


def test_masks_of_unlabeled_images_are_read_for_diagnostics_alone():
    class Noting:
        classes, palette = ("a", "b"), ((0, 0, 0), (1, 1, 1))
        read_masks: ClassVar[set] = set()

        def size(self, item):
            return 8, 8

        def read(self, item, window=None):
            if item.mask:
                self.read_masks.add(item.id)
            shape = tuple(s.stop - s.start for s in window)
            return Sample(np.zeros((3, *shape), np.uint8), np.zeros(shape, np.uint8) if item.mask else None)

    items = tuple([Item(f"{kind}{i}", "x", "x") for i in range(4)] for kind in ("labeled", "unlabeled"))
    crops = PairedCrops(Noting(), items, Data(scale=(1, 1), flip=0), (8, 8), 1, 0, truth_every=(3, 10))
    found = {}
    for step in range(10):
        for stream in (LABELED, UNLABELED):
            Noting.read_masks.clear()
            crops[Address(stream, step, 0)]
            found[stream, step + 1] = bool(Noting.read_masks)
    assert all(found[LABELED, step] for step in range(1, 11))
    assert [step for step in range(1, 11) if found[UNLABELED, step]] == [3, 6, 9, 10]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_hand_over_eight_bits(crops, workers):
    """Five bytes per pixel of a sample: three of the image, one of the mask, one that says whether it is valid."""
    (batch,) = load(crops, last=1, workers=workers)
    assert (batch.images.dtype, batch.masks.dtype, batch.valid.dtype) == (torch.uint8, torch.uint8, torch.bool)
    tensors = batch.images, batch.masks, batch.valid
    assert [tuple(tensor.shape) for tensor in tensors] == [(8, 3, 16, 16), (8, 16, 16), (8, 16, 16)]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == 8 * 16 * 16 * 5
