"""What is preprocessed once is read from disk afterwards, and made anew when anything it depends on has changed."""

import gzip
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from phantoms import Phantom, write_decathlon, write_image
from volume_data import build, refused

from farcluss_medical import cache as module
from farcluss_medical.layouts import decathlon

SMALL = (16.0, 20.0, 12.0)


@pytest.fixture
def root(tmp_path):
    write_decathlon(tmp_path / "root", 2, 1, extent=SMALL)
    return tmp_path / "root"


@pytest.fixture
def opened(monkeypatch):
    """Voxels that are read from volumes, by name of the file."""
    names = []
    image, label = module.read_image, module.read_label
    monkeypatch.setattr(
        module,
        "read_image",
        lambda paths, *rest: names.extend(f"image {Path(p).name}" for p in paths) or image(paths, *rest),
    )
    monkeypatch.setattr(
        module, "read_label", lambda path, *rest: names.append(f"label {Path(path).name}") or label(path, *rest)
    )
    return names


def entries(root):
    return sorted(os.listdir(f"{root}-cache")) if os.path.isdir(f"{root}-cache") else []


def test_the_second_read_does_not_open_the_file(root, opened):
    dataset = build(decathlon, root, normalize="zscore")
    item = dataset.items("train")[0]
    first = dataset.read(item)
    assert opened == ["image case_000.nii.gz", "label case_000.nii.gz"]
    for again in (dataset, build(decathlon, root, normalize="zscore")):
        second = again.read(item, (slice(3, 7), slice(0, 5), slice(2, 12)))
        again.place(item, (4, 4, 4), np.random.default_rng(0))
        assert np.array_equal(second.image, first.image[:, 3:7, :5, 2:12])
        assert np.array_equal(second.mask, first.mask[3:7, :5, 2:12])
    assert opened == ["image case_000.nii.gz", "label case_000.nii.gz"]
    second.image[:] = 9  # the reader's own, not the file's
    assert np.array_equal(dataset.read(item).image, first.image)


def test_a_crop_is_read_from_a_map(root):
    dataset = build(decathlon, root)
    item = dataset.items("train")[0]
    dataset.read(item)
    case = dataset.index.splits["train"][0]
    assert isinstance(dataset.cache.image(case, dataset.preprocessing), np.memmap)
    assert isinstance(dataset.cache.mask(case, dataset.preprocessing, dataset.masks), np.memmap)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_one_piece_of_its_file(root, axis):
    """Else a slice across the last axis would read every page of the volume."""
    dataset = build(decathlon, root, dimensions=2, slice_axis=axis)
    volume = build(decathlon, root)
    case = dataset.find(dataset.items("train")[0])[0]
    image = dataset.cache.image(case, dataset.preprocessing)
    mask = dataset.cache.mask(case, dataset.preprocessing, dataset.masks)
    for array, whole in zip((image, mask), volume.read(volume.parse(case.id))[:2], strict=True):
        piece = array.take(0, axis=array.ndim - 3 + axis).nbytes
        assert array.strides[array.ndim - 3 + axis] == piece
        assert np.array_equal(array, whole)
    assert isinstance(image, np.memmap) and isinstance(mask, np.memmap)


def test_no_entry_is_made_of_what_is_not_read(root, opened):
    dataset = build(decathlon, root)
    dataset.items("train")
    assert entries(root) == [] and opened == []
    bare = next(item for item in dataset.items("train") if item.mask is None)
    dataset.read(bare)
    dataset.place(bare, (4, 4, 4), np.random.default_rng(0))
    assert {name.split(".")[1] for name in entries(root)} == {"box", "image"} and opened == ["image case_002.nii.gz"]


@pytest.mark.parametrize("change", ["time", "size", "content"])
def test_a_changed_file_makes_a_new_entry(root, opened, change):
    dataset = build(decathlon, root)
    item = dataset.items("train")[0]
    dataset.read(item)
    before = len(entries(root))
    path = root / "images/case_000.nii.gz"
    if change == "content":
        write_image(path, Phantom(9, extent=SMALL).scan())
    elif change == "size":
        stat = path.stat()
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size != stat.st_size
    else:
        os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    found = dataset.read(item).image
    assert len(entries(root)) == before + 1 and opened.count("image case_000.nii.gz") == 2
    assert opened.count("label case_000.nii.gz") == 1, "the label has not changed"
    wanted = Phantom(9 if change == "content" else 0, extent=SMALL).scan().voxels
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"normalize": "zscore"}, {"image"}),
        ({"spacing": [2.0, 2.0, 2.0]}, {"image", "mask"}),
        ({"classes": {"background": [0, 2], "edema": 1, "enhancing": 3}}, {"mask"}),
        ({"data": {"ignore_index": 7}}, {"mask"}),
        ({"foreground": 0.9, "slice_axis": 0}, set()),
        ({"dimensions": 2}, {"image", "mask"}),
    ],
)
def test_changed_settings_make_new_entries_of_what_they_change(root, options, made):
    item = build(decathlon, root).items("train")[0]
    build(decathlon, root).read(item)
    before = set(entries(root))
    other = build(decathlon, root, **options)
    other.read(other.items("train")[0])
    assert {name.split(".")[1] for name in set(entries(root)) - before} == made
    assert before <= set(entries(root))


def test_masks_follow_changed_classes(root):
    labels = Phantom(0, extent=SMALL).scan().label("decathlon")
    for classes, table in (({"b": [0, 1], "t": [2, 3]}, (0, 0, 1, 1)), ({"b": [0, 2], "t": [1, 3]}, (0, 1, 0, 1))):
        dataset = build(decathlon, root, classes=classes)
        assert np.array_equal(dataset.read(dataset.items("train")[0]).mask, np.array(table)[labels])


def read_all(root, barrier, results):
    """A process of its own, which starts with others."""
    dataset = build(decathlon, root, normalize="zscore", foreground=1.0)
    barrier.wait()
    total = 0.0
    for item in dataset.items("train"):
        sample = dataset.read(item)
        total += float(np.abs(sample.image, dtype=np.float64).sum()) + (
            0 if sample.mask is None else int(sample.mask.sum())
        )
        dataset.place(item, (4, 4, 4), np.random.default_rng(0))
    results.put(total)


def test_processes_fill_the_cache_at_once(root):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=read_all, args=(root, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    totals = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len(set(totals)) == 1 and [worker.exitcode for worker in workers] == [0, 0, 0]
    kinds = [name.split(".")[1] for name in entries(root)]
    assert sorted(kinds) == ["box"] + ["foreground"] * 2 + ["image"] * 3 + ["mask"] * 2, "none twice, no part left"
    dataset = build(decathlon, root, normalize="zscore")
    fresh = build(decathlon, root, normalize="zscore", spacing=[1.0, 1.0, 1.0])  # entries of its own
    for item in dataset.items("train"):
        assert np.array_equal(dataset.read(item).image, fresh.read(item).image)


def test_an_interrupted_write_leaves_nothing(root, monkeypatch):
    dataset = build(decathlon, root)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            dataset.read(dataset.items("train")[0])
    assert entries(root) == []
    assert dataset.read(dataset.items("train")[0]).image.any()


def test_a_cache_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").write_text("x")
    dataset = build(decathlon, root)
    blocked = decathlon(dataset.data, normalize="none", cache=str(tmp_path / "file/below"))
    text = refused(blocked.read, blocked.items("train")[0])
    assert "cannot be written" in text and "data.layout.cache" in text


def test_a_file_that_vanishes(root):
    dataset = build(decathlon, root)
    item = dataset.items("train")[0]
    (root / "images/case_000.nii.gz").unlink()
    assert "case_000.nii.gz cannot be read" in refused(dataset.read, item)


def test_cases_of_like_names_are_kept_apart(tmp_path):
    """`a b` and `a_b` are one name on disk."""
    write_decathlon(tmp_path / "root", 2, extent=SMALL)
    text = (tmp_path / "root/dataset.json").read_text()
    for old, new in (("case_000", "a b"), ("case_001", "a_b")):
        text = text.replace(old, new)
        for folder in ("images", "labels"):
            (tmp_path / f"root/{folder}/{old}.nii.gz").rename(tmp_path / f"root/{folder}/{new}.nii.gz")
    (tmp_path / "root/dataset.json").write_text(text)
    dataset = build(decathlon, tmp_path / "root")
    for seed, item in enumerate(dataset.items("train")):
        assert np.array_equal(dataset.read(item).image, Phantom(seed, extent=SMALL).scan().voxels)
