"""A packed data set is the data set: items, lists, arrays and batches, in every process."""

import json
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import SECTIONS, Windows, pack, sections
from registered import registered
from three_d import Cubes
from torch.utils.data import DataLoader
from trees import COARSE, FINE

from farcluss.data import pack as module
from farcluss.data.base import IGNORE, Item, MissingMask, Sample
from farcluss.data.loader import LABELED, UNLABELED, PairedCrops, host_batches, step_addresses
from farcluss.data.pack import Pack, chunk_shape
from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data, Defaults

STEPS, BATCH = 4, 3


@pytest.fixture(autouse=True)
def cubes():
    with registered("dataset", "cubes", Cubes):
        yield


@pytest.fixture(scope="module")
def windows():
    with registered("dataset", "windows", lambda data: Windows(ARRAYS)):
        yield


def image(*shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, np.uint8) if dtype == np.uint8 else rng.random(shape, np.float32)


# Sizes around the chunks' sides, one and many channels, both types, with and without mask and validity.
ARRAYS = {
    "small": Sample(image(3, 5, 7), image(5, 7, seed=1) % 3),
    "chunk": Sample(image(3, 128, 256), image(128, 256, seed=1) % 3),
    "more": Sample(image(3, 129, 257), None, image(129, 257, seed=2) % 2 == 0),
    "bands": Sample(image(7, 300, 270, dtype=np.float32), image(300, 270, seed=1) % 3, image(300, 270, seed=2) > 99),
    "volume": Sample(image(2, 20, 40, 70, dtype=np.float32), image(20, 40, 70, seed=1) % 3),
}


def names(items):
    return [item.id for item in items]


def batches(dataset, data, workers=0, steps=STEPS):
    splits = resolve(dataset, data)
    sides = (data.crop,) * 2 if isinstance(data.crop, int) else tuple(data.crop)
    crops = PairedCrops(dataset, (splits.labeled, splits.unlabeled), data, sides, BATCH, 5, truth_every=(2,))
    addresses = step_addresses(0, steps, BATCH, (LABELED, UNLABELED), 0, 1)
    return list(host_batches(crops, addresses, workers, False))


def assert_equal(found, wanted):
    assert len(found) == len(wanted) > 0
    for one, two in zip(found, wanted, strict=True):
        for a, b in zip(one, two, strict=True):
            assert (torch.equal(a, b) and a.dtype == b.dtype) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize("name", SECTIONS)
def test_a_pack_is_its_data_set(name, tmp_path):
    data = sections(tmp_path)[name]
    plain = build_dataset(data)
    wanted, splits = batches(plain, data), resolve(plain, data)
    kept = {s: names(plain.items(s)) for s in ("train", "val")} if name[:6] != "folder" else {}
    packed = pack(data, tmp_path / "x.h5")
    for folder in ("own/images", "voc", "streets"):  # lists below the root stay, images and masks go
        for path in (tmp_path / folder).rglob("*.[pj][np]g"):
            path.unlink()
    dataset = build_dataset(packed)
    assert (dataset.classes, dataset.palette) == (tuple(plain.classes), tuple(plain.palette))
    found = resolve(dataset, packed)
    for part in ("labeled", "unlabeled", "val"):
        assert names(getattr(found, part)) == names(getattr(splits, part))
        masked = [[item.mask is None for item in getattr(s, part)] for s in (found, splits)]
        assert masked[0] == masked[1]
    assert found.names == splits.names
    assert {split: names(dataset.items(split)) for split in kept} == kept
    assert_equal(batches(dataset, packed), wanted)


def test_every_image_and_mask_is_there(tmp_path):
    data = sections(tmp_path)["voc"]
    plain, dataset = build_dataset(data), build_dataset(pack(data, tmp_path / "x.h5"))
    items = [item for split in ("train", "val") for item in plain.items(split)]
    for item in [*items, *(plain.parse(item.id) for item in items)]:
        same = dataset.parse(item.id)
        assert dataset.size(same) == plain.size(item)
        found, wanted = dataset.read(same), plain.read(plain.parse(item.id))
        assert all(np.array_equal(a, b) for a, b in zip(found[:2], wanted[:2], strict=True) if a is not None)
        assert (found.mask is None) == (wanted.mask is None) and found.image.flags.c_contiguous
    assert sum(item.mask is None for item in dataset.items("train")) == len(COARSE)  # classic: labels of others only


class TestLines:
    """What a list may say, told by the data set that was packed."""

    def both(self, tmp_path, name):
        data = sections(tmp_path)[name]
        return build_dataset(data), build_dataset(pack(data, tmp_path / "x.h5")), data.root

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("folder, shares", "images/image 0.jpg"),
            ("folder, shares", "/images/day one/image 1.jpg"),
            ("folder, shares", "./images//image 0.jpg"),
            ("folder, shares", "{root}/images/day one/image 3.jpg {root}/masks/day one/image 3.png"),
            ("folder, shares", "images/image 2.jpg\tmasks/image 2.png"),
            ("folder, shares", "day one/image 5"),
            ("folder, shares", "images/image 6  "),
            ("voc", "2007_000003"),
            ("voc", "2008_000001"),
            ("voc", "/JPEGImages/2008_000001.jpg /SegmentationClassAug/2008_000001.png"),
            ("voc", "JPEGImages/2007_000001.jpg SegmentationClassAug/2007_000001.png"),
            ("voc, list", "JPEGImages/2007_000001.jpg SegmentationClass/2007_000001.png"),
            ("cityscapes", "jena_000002_000019"),
            ("cityscapes", "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"),
            ("cityscapes", "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png gtFine/nowhere.png"),
            ("shapes", "val/0001"),
        ],
    )
    def test_a_line_names_the_same_item(self, name, line, tmp_path):
        plain, packed, root = self.both(tmp_path, name)
        text = line.format(root=root)
        wanted = plain.parse(text)
        found = packed.parse(text)
        assert found.id == wanted.id and (found.mask is None) == (wanted.mask is None)
        assert all(np.array_equal(a, b) for a, b in zip(packed.read(found), plain.read(wanted), strict=True))

    def test_unknown_images_and_masks_are_refused(self, tmp_path):
        _, packed, _ = self.both(tmp_path, "folder, shares")
        with pytest.raises(DataError, match=r"'nowhere.png' names no image of .*x\.h5\. Pack the data set"):
            packed.parse("nowhere.png")
        for image, bare in (("image 0", False), ("image 6", True)):
            with pytest.raises(MissingMask, match=r"other\.png is not in .*x\.h5") as caught:
                packed.parse(f"images/{image}.jpg other.png")
            (item,) = caught.value.items
            assert item.id == f"images/{image}" and (item.mask is None) == bare

    def test_splits_that_do_not_exist_say_what_the_data_set_said(self, tmp_path):
        plain, packed, _ = self.both(tmp_path, "folder, shares")
        for split in ("val", "test", "other"):
            with pytest.raises(DataError) as one:
                plain.items(split)
            with pytest.raises(DataError) as two:
                packed.items(split)
            assert str(two.value).partition("\n")[0] == str(one.value).partition("\n")[0]


@pytest.fixture(scope="module")
def packs(tmp_path_factory, windows):
    folder = tmp_path_factory.mktemp("windows")
    data = Data(layout="windows", labeled="all", val="none", workers=0)
    return {c: build_dataset(pack(data, folder / f"{c}.h5", compression=c)) for c in ("none", "lzf")}


class TestWindows:
    @settings(deadline=None, max_examples=150)
    @given(data=st.data(), name=st.sampled_from(sorted(ARRAYS)), compression=st.sampled_from(["none", "lzf"]))
    def test_a_window_is_a_slice(self, packs, data, name, compression):
        sample = ARRAYS[name]
        window = []
        for extent in sample.image.shape[1:]:
            start = data.draw(st.integers(0, extent - 1))
            window.append(slice(start, data.draw(st.integers(start, extent))))
        dataset = packs[compression]
        item = dataset.parse(name)
        wanted = Windows(ARRAYS).read(Item(name, name, item.mask), tuple(window))
        if wanted.mask is not None and wanted.valid is not None:
            wanted = wanted._replace(mask=np.where(wanted.valid, wanted.mask, IGNORE))
        for found in (dataset.read(item, tuple(window)), dataset.read(Item(name, name), tuple(window))):
            for a, b in zip(found, wanted if found.mask is not None else wanted._replace(mask=None), strict=True):
                assert (a is None) == (b is None)
                assert a is None or (a.dtype == b.dtype and np.array_equal(a, b))

    @pytest.mark.parametrize("name", sorted(ARRAYS))
    def test_only_the_window_is_asked_for(self, packs, name, monkeypatch):
        asked = []
        read = h5py.Dataset.__getitem__

        def spy(dataset, selection):
            array = read(dataset, selection)
            asked.append((dataset.name.split("/")[1], array.size))
            return array

        monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
        dataset, (image, mask, valid) = packs["none"], ARRAYS[name]
        window = tuple(slice(1, min(4, extent)) for extent in image.shape[1:])
        pixels = np.prod([part.stop - part.start for part in window])
        dataset.read(dataset.parse(name), window)
        wanted = [("images", len(image) * pixels), ("masks", pixels), ("valid", pixels)]
        assert asked == [w for w, array in zip(wanted, (image, mask, valid), strict=True) if array is not None]

    def test_bytes_that_leave_the_disk_are_those_of_the_windows_chunks(self, tmp_path, windows, monkeypatch):
        """The other chunks are overwritten with noise: the window is right, the whole is not."""
        big = {"big": Sample(image(3, 512, 1024))}
        monkeypatch.setitem(ARRAYS, "big", Sample(image(3, 512, 1024), image(512, 1024, seed=1) % 3))
        path = tmp_path / "x.h5"
        dataset = build_dataset(
            pack(Data(layout="windows", labeled="all", val="none", workers=0), path, compression="lzf")
        )
        number = dataset.contents.images["big"]
        with h5py.File(path) as file:
            stored = file[f"images/{number}"]
            infos = [stored.id.get_chunk_info(n) for n in range(stored.id.get_num_chunks())]
            assert stored.chunks == (3, 128, 256) and len(infos) == 16
        content = bytearray(path.read_bytes())
        for info in infos:
            if info.chunk_offset[1:] not in ((128, 256), (128, 512)):
                content[info.byte_offset : info.byte_offset + info.size] = bytes(info.size)
        path.write_bytes(content)
        window = slice(128, 256), slice(300, 768)
        item = dataset.parse("big")
        assert np.array_equal(dataset.read(item, window).image, big["big"].image[:, *window])
        assert_damaged(dataset, item, big["big"].image)

    def test_chunks(self, packs):
        assert chunk_shape((3, 1024, 2048), 1, 2) == (3, 128, 256)
        assert chunk_shape((1024, 2048), 1, 2) == (128, 256)
        assert chunk_shape((3, 321, 481), 1, 2) == (3, 107, 241)  # little is stored beyond the edge
        assert chunk_shape((13, 1024, 1024), 4, 2) == (4, 128, 256)  # half a MiB at most
        for shape, itemsize in (((200, 512, 512), 4), ((1, 3, 3), 1), ((2, 300, 300, 300), 4), ((5, 70000), 4)):
            chunks = chunk_shape(shape, itemsize, len(shape) - 1)
            assert np.prod(chunks) * itemsize <= 2**19 and all(c <= s for c, s in zip(chunks, shape, strict=True))


def assert_damaged(dataset, item, whole):
    try:
        assert not np.array_equal(dataset.read(item).image, whole)
    except DataError as error:
        assert item.id in str(error) and "--verify" in str(error)


class TestProcesses:
    # To be spawned, they import everything anew.
    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_workers_change_nothing(self, context, tmp_path, monkeypatch):
        data = sections(tmp_path)["shapes"]
        packed = pack(data, tmp_path / "x.h5")
        wanted = batches(build_dataset(data), data)
        dataset = build_dataset(packed)
        dataset.read(dataset.items("train")[0])  # the parent has read before it forks
        make = DataLoader.__init__
        monkeypatch.setattr(DataLoader, "__init__", lambda self, *a, **k: make(
            self, *a, **k | {"multiprocessing_context": context}))  # fmt: skip
        assert_equal(batches(dataset, packed, workers=2), wanted)
        monkeypatch.undo()
        assert_equal(batches(dataset, packed), wanted)  # the parent reads on

    def test_nothing_is_open_before_the_first_read_nor_across_a_fork(self, tmp_path):
        dataset = build_dataset(pack(sections(tmp_path)["shapes"], tmp_path / "x.h5"))
        item = dataset.items("train")[0]
        assert dataset.size(item) == (24, 24) and not list(module._OPEN)
        dataset.read(item)
        assert [handle.path for handle in module._OPEN] == [tmp_path / "x.h5"]
        first = dataset._handle()
        assert dataset._handle() is first
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, b"open" if first else b"closed")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 9) == b"closed" and not first  # in the child as in the parent
        os.close(reader), os.close(writer)
        assert np.array_equal(dataset.read(item).image, dataset.read(item).image) and dataset._handle() is not first

    def test_another_process_opens_its_own(self, tmp_path, monkeypatch):
        """Where nothing is told of a fork, the number of the process tells."""
        dataset = build_dataset(pack(sections(tmp_path)["shapes"], tmp_path / "x.h5"))
        first = dataset._handle()
        monkeypatch.setattr(module.os, "getpid", lambda: 1)
        assert dataset._handle() is not first

    def test_a_copy_is_closed(self, tmp_path):
        dataset = build_dataset(pack(sections(tmp_path)["shapes"], tmp_path / "x.h5"))
        item = dataset.items("train")[0]
        image = dataset.read(item).image
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy._handle._file is None and dataset._handle._file
        assert np.array_equal(copy.read(item).image, image)


def counted(sample, classes):
    """Valid pixels and those of each class, in NumPy."""
    valid = np.ones(sample.image.shape[1:], bool) if sample.valid is None else sample.valid
    held = [0] * classes if sample.mask is None else [(valid & (sample.mask == c)).sum() for c in range(classes)]
    return [valid.sum(), *held]


class TestPixelCounts:
    @pytest.mark.parametrize("compression", ["none", "lzf"])
    @pytest.mark.parametrize("name", sorted(ARRAYS))
    def test_they_are_those_of_the_arrays_that_were_packed(self, packs, name, compression):
        dataset, sample = packs[compression], ARRAYS[name]
        for item, known in ((dataset.parse(name), sample), (Item(name, name), sample._replace(mask=None))):
            counts = dataset.pixel_counts(item)
            assert counts.tolist() == counted(known, 3) and counts.dtype == np.int64

    @pytest.mark.parametrize("name", ["voc", "folder, list", "cityscapes", "cubes"])
    def test_they_are_those_of_the_arrays_that_are_read(self, name, tmp_path):
        dataset = build_dataset(pack(sections(tmp_path)[name], tmp_path / "x.h5"))
        for item in dataset.contents.items:
            assert dataset.pixel_counts(item).tolist() == counted(dataset.read(item), len(dataset.classes))

    def test_an_image_that_is_not_there(self, packs):
        with pytest.raises(DataError, match=r"nowhere is not in"):
            packs["none"].pixel_counts(Item("nowhere", "nowhere"))

    def test_damage_is_told(self, tmp_path):
        packed = pack(sections(tmp_path)["shapes"], tmp_path / "x.h5")
        with h5py.File(packed.pack, "r+") as file:
            file["pixels/classes"][0, 0] += 1
        with pytest.raises(DataError, match=r"/pixels/classes does not match its checksum\.\nPack the data set again"):
            build_dataset(packed)


class Measured(Windows):
    """A data set whose options may name a file, which weights files shall not need."""

    def __init__(self, data, *, levels: list[float] | str = "levels.txt", gain: float = 1.0):
        super().__init__(ARRAYS)
        read = [float(line) for line in (data.root / levels).read_text().split()] if isinstance(levels, str) else levels
        values = {name: [number, 9 - number] for number, name in enumerate(self.classes)}
        layout = data.layout.model_copy(update={"levels": read, "gain": gain})
        self.carried = data.model_copy(update={"layout": layout, "classes": values, "ignore_index": 77})


class TestCarried:
    @pytest.fixture
    def data(self, tmp_path):
        (tmp_path / "levels.txt").write_text("0.25 0.5")
        with registered("dataset", "measured", Measured):
            yield Data(root=tmp_path, layout="measured", classes=["c", "b", "a"], val="none", workers=0)

    def test_weights_say_the_same_of_their_data_as_without_a_pack(self, data, tmp_path):
        packed = pack(data, tmp_path / "x.h5")
        others = {
            "crop": 99,
            "labeled": "1/2",
            "palette": ["#010203"] * 3,
            "draw": "balanced",
            "mean": 0.25,
            "std": 2.0,
        }
        wanted = build_dataset(data.model_copy(update=others)).carried
        (tmp_path / "levels.txt").unlink()
        found = build_dataset(packed.model_copy(update=others)).carried
        assert found.layout.levels == [0.25, 0.5] and list(found.classes) == ["a", "b", "c"]
        wanted = wanted.with_defaults(Defaults())
        assert found.with_defaults(Defaults()) == wanted.model_copy(update={"pack": tmp_path / "x.h5"})
        assert list(found.classes.items()) == list(wanted.classes.items())

    def test_recipes_out_of_weights_open_the_pack(self, data, tmp_path):
        path = pack(data, tmp_path / "x.h5").pack
        wanted = build_dataset(data).carried
        (tmp_path / "levels.txt").unlink()
        card = Data.model_validate_json(wanted.model_dump_json()).model_copy(update={"pack": path})
        dataset = build_dataset(card)
        assert dataset.carried.with_defaults(Defaults()) == card.with_defaults(Defaults())
        assert names(dataset.items("train")) == list(ARRAYS)
        for change in ({"ignore_index": 78}, {"layout": {"name": "measured", "levels": [0.25, 0.75]}}):
            with pytest.raises(DataError, match="was packed from a recipe with other data"):
                build_dataset(Data.model_validate(card.model_dump() | change))

    def test_without_it_weights_have_the_recipes_own_section(self, tmp_path):
        packed = pack(sections(tmp_path)["shapes"], tmp_path / "x.h5").model_copy(update={"crop": 9})
        dataset = build_dataset(packed)
        assert not hasattr(dataset, "carried") and dataset.contents.carried == {}


def test_the_file_is_plain(tmp_path):
    path = pack(sections(tmp_path)["voc"], tmp_path / "x.h5").pack
    kinds = set()
    with h5py.File(path) as file:
        file.visititems(lambda name, thing: kinds.add(thing.dtype.str) if isinstance(thing, h5py.Dataset) else None)
        contents = json.loads(file["contents"][()].tobytes())
        assert file.attrs["channels"] == 3 and contents.pop("root") == str(tmp_path / "voc")
        assert str(tmp_path) not in json.dumps([contents[name] for name in ("classes", "items", "lines")])
    assert kinds <= {"|u1", "<i8"}
    shutil.rmtree(tmp_path / "voc")
    assert len(Pack(path).items("train")) == len(FINE + COARSE)
