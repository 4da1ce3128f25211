"""From files to what a network sees: one content in all geometries; nothing wrong passes, nothing hidden is read."""

import gzip
import json
import os
import re

import h5py
import nibabel as nib
import numpy as np
import pytest
from commandline import cli
from phantoms import EXACT, GEOMETRIES, Phantom, write_decathlon, write_hdf5, write_image, write_label, write_nifti
from registered import registered
from tiny_network import TinyNetwork
from volume_data import build, pairs, problems, refused

from farcluss.data.base import Item
from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss_medical.challenges import ssl4mis
from farcluss_medical.crops import nonzero_box
from farcluss_medical.evaluation import read_labels
from farcluss_medical.layouts import decathlon, scans
from farcluss_medical.preprocessing import Preprocessing, resample_mask, zscore
from farcluss_medical.volumes import (
    Header,
    Orientation,
    Volume,
    difference,
    read_header,
    read_image,
    read_label,
    read_storage,
)

SMALL = (16.0, 20.0, 12.0)
BINARY = {"background": 0, "tumor": 1}


def drawn(root, geometries=("ras",), count=2, unlabeled=1, **options):
    return write_decathlon(root, count, unlabeled, geometries=geometries, extent=SMALL, **options)


# Geometry.


@pytest.mark.parametrize("options", [{}, {"normalize": "zscore"}, {"normalize": "zscore", "spacing": [2.0, 1.5, 3.0]}])
@pytest.mark.parametrize("geometry", EXACT[1:])
def test_equal_content_is_preprocessed_to_equal_bits(tmp_path, geometry, options):
    found = []
    for name in ("ras", geometry):
        root = tmp_path / name
        scan = Phantom(5, 2, extent=SMALL).scan(name, (1.0, 1.25, 2.0))
        write_image(root / "images/x.nii.gz", scan)
        write_label(root / "labels/x.nii.gz", scan)
        dataset = build(scans, root, channels=2, classes=["background", "a", "b", "unused", "c"], **options)
        item = dataset.items("train")[0]
        found.append(dataset.read(item))
        assert found[-1].image.shape[1:] == dataset.size(item)
    assert found[0].image.tobytes() == found[1].image.tobytes() and np.array_equal(found[0].mask, found[1].mask)
    assert found[0].image.dtype == np.float32 and found[0].mask.any()
    wanted = (16, 16, 6) if "spacing" not in options else (8, 13, 4)
    assert found[0].image.shape == (2, *wanted)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_orientation_is_undone_exactly(tmp_path, geometry):
    scan = Phantom(1, extent=SMALL).scan(geometry)
    write_image(tmp_path / "x.nii.gz", scan)
    header = read_header(str(tmp_path / "x.nii.gz"))
    orientation = Orientation.of(header)
    turned = orientation.apply(scan.voxels)
    assert turned.shape[1:] == orientation.size()
    assert np.array_equal(orientation.undo(turned[0]), scan.voxels[0])
    canonical = nib.as_closest_canonical(nib.Nifti1Image(scan.voxels[0], scan.affine))
    assert np.array_equal(turned[0], np.asarray(canonical.dataobj)), "nibabel's own"
    assert np.allclose(orientation.spacing(scan.affine), canonical.header.get_zooms(), atol=1e-5)


def test_zscore_is_over_what_is_not_zero():
    channel = np.array([[0, 0, 3], [5, 7, 0]], np.float32)
    values = np.array([3, 5, 7], np.float64)
    scaled = zscore(channel)
    assert np.allclose(scaled[channel != 0], (values - values.mean()) / values.std()) and not scaled[channel == 0].any()
    assert not zscore(np.zeros((2, 2), np.float32)).any()
    assert not zscore(np.full((2, 2), 4, np.float32)).any(), "without deviation, and not NaN"


def test_ct_clips_and_scales_by_the_fingerprint(tmp_path):
    root = tmp_path / "root"
    drawn(root)
    facts = {"low": 100.0, "high": 600.0, "mean": 250.0, "std": 50.0, "median": 3.0}
    dataset = build(decathlon, root, normalize="ct", fingerprint=[facts])
    raw = build(decathlon, root)
    item = dataset.items("train")[0]
    assert np.allclose(dataset.read(item).image, (raw.read(item).image.clip(100, 600) - 250) / 50)
    (root / "facts.json").write_text(json.dumps({"intensities": [facts], "spacing": [2, 2, 2]}))
    from_file = build(decathlon, root, normalize="ct", fingerprint="facts.json", spacing="fingerprint")
    assert from_file.size(item) == (8, 10, 6)
    assert from_file.preprocessing.fingerprint == dataset.preprocessing.fingerprint
    assert "needs a fingerprint" in refused(build, decathlon, root, normalize="ct")
    assert "three axes" in refused(build, decathlon, root, spacing=[1.0])
    (root / "facts.json").write_text("{}")
    assert "is not a fingerprint" in refused(build, decathlon, root, normalize="ct", fingerprint="facts.json")
    for wrong in ([{}], [1], [facts | {"low": "x"}]):
        assert "lacks low, high, mean or std" in refused(build, decathlon, root, normalize="ct", fingerprint=wrong)
    (root / "facts.json").write_text(json.dumps({"intensities": [facts], "spacing": [1, 0, "x"]}))
    assert "is not a fingerprint" in refused(build, decathlon, root, spacing="fingerprint", fingerprint="facts.json")


def test_resampling_keeps_places():
    """A plane stays where it is in millimeters, and a coarse axis is not interpolated."""
    ramp = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((12, 6, 6), np.float32)
    fine = Preprocessing("none", (0.5, 1.0, 1.0))._resampled((12, 6, 6), (1.0, 1.0, 1.0))
    from farcluss_medical.preprocessing import resample_image

    image = resample_image(ramp[None], fine, (1.0, 1.0, 1.0))[0, 4:-4, 3, 3]
    assert np.allclose(image, (np.arange(24)[4:-4] + 0.5) / 2 - 0.5, atol=0.05)
    coarse = resample_image(ramp[None], fine, (5.0, 1.0, 1.0))
    assert set(np.unique(coarse)) == set(range(12)), "each voxel is one of the file's"
    mask = (ramp > 5).astype(np.uint8) * 3
    assert set(np.unique(resample_mask(mask, fine, (1.0, 1.0, 1.0)))) == {0, 3}
    assert resample_mask(mask, fine, (1.0, 1.0, 1.0)).mean() == mask.mean()


# What is wrong with files.


@pytest.mark.parametrize("step", [0.5, 1.6])
def test_what_is_nothing_stays_nothing_when_resampled(step):
    """Splines ring: without care, all voxels around a brain would be part of the box that crops are drawn in."""
    voxels = np.zeros((2, 24, 20, 16), np.float32)
    voxels[:, 8:16, 6:14, 4:12] = np.random.default_rng(0).uniform(1, 9, (2, 8, 8, 8))
    image = Preprocessing("zscore", (step,) * 3).image(Volume(voxels, np.eye(4)))
    low, high = nonzero_box(image)
    np.testing.assert_allclose(low, np.array([8, 6, 4]) / step, atol=1)
    np.testing.assert_allclose(high, np.array([16, 14, 12]) / step, atol=1)
    inner = tuple(slice(first + 1, last - 1) for first, last in zip(low, high, strict=True))
    assert (image[:, *inner] != 0).all()


def test_channels_of_one_case_must_agree(tmp_path):
    scan, other = Phantom(0, extent=SMALL).scan(), Phantom(0, extent=SMALL).scan("lps")
    write_image(tmp_path / "a.nii", scan)
    write_image(tmp_path / "b.nii", other)
    write_nifti(tmp_path / "c.nii", scan.voxels[0, :-1], scan.affine)
    text = refused(read_image, (str(tmp_path / "a.nii"), str(tmp_path / "b.nii")))
    assert "[1.0, 0.0, 0.0, -7.5]" in text and "[-1.0, 0.0, 0.0, 7.5]" in text and "a.nii" in text and "b.nii" in text
    text = refused(read_image, (str(tmp_path / "a.nii"), str(tmp_path / "c.nii")))
    assert "(16, 20, 12)" in text and "(15, 20, 12)" in text
    header = read_header(str(tmp_path / "a.nii"))
    assert "(15, 20, 12)" in refused(read_label, str(tmp_path / "c.nii"), str(tmp_path / "a.nii"), header)


@pytest.mark.parametrize("unit", [1.0, 0.01, 5.0])
def test_corners_may_differ_by_a_twentieth_of_a_voxel(unit):
    """Whatever the size of a voxel and of the grid: rotations move far corners more than near ones."""
    shape, affine = (512, 512, 30), np.diag([unit, unit, 3 * unit, 1.0])
    for axis, shift, agree in ((0, 0.045, True), (0, 0.055, False), (2, 0.12, True), (2, 0.2, False)):
        other = affine.copy()
        other[axis, 3] += shift * unit
        text = difference("a", Header(shape, 1, affine), "b", Header(shape, 1, other))
        assert not text if agree else f"corners lie {shift * unit:.3g} mm apart" in text
    for degrees, agree in ((0.002, True), (0.05, False)):
        sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        turned = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
        assert bool(difference("a", Header(shape, 1, affine), "b", Header(shape, 1, turned))) != agree


@pytest.mark.parametrize(("unit", "size"), [("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)])
def test_spacing_is_that_of_the_affine_in_millimeters_everywhere(tmp_path, unit, size):
    """Of one scan in all units, and with a field pixdim that says otherwise: training, checks and scores agree."""
    scan = Phantom(0, extent=SMALL).scan("lps", (1.0, 1.25, 2.0))
    affine = np.diag([size, size, size, 1]) @ scan.affine
    for name, values in (("images", scan.voxels[0]), ("labels", scan.label("binary"))):
        stored = nib.Nifti1Image(values, None)
        stored.set_sform(affine, 1)
        stored.header.set_xyzt_units(unit)
        stored.header["pixdim"][1:4], stored.header["qform_code"] = (7, 8, 9), 0
        (tmp_path / name).mkdir()
        stored.to_filename(tmp_path / name / "x.nii")
    dataset = build(scans, tmp_path, classes=BINARY, spacing=[2.0, 2.5, 2.0])
    assert dataset.size(dataset.items("train")[0]) == (8, 8, 6)
    assert read_labels(tmp_path / "labels/x.nii").spacing == pytest.approx((1.0, 1.25, 2.0))
    assert Orientation.of(read_header(str(tmp_path / "images/x.nii"))).spacing(scan.affine) == (1.0, 1.25, 2.0)
    assert read_storage(str(tmp_path / "images/x.nii")).pixdim == pytest.approx(np.array([7, 8, 9]) / size)


def test_a_resampled_case_has_a_size_before_it_has_voxels(tmp_path):
    """A header that is a thousand times too large: named, and no memory is asked for."""
    drawn(tmp_path / "root", count=2)
    path = tmp_path / "root/images/case_000.nii.gz"
    image = nib.load(path)
    grid = image.affine @ np.diag([1000, 1000, 1000, 1])
    for place in (path, tmp_path / "root/labels/case_000.nii.gz"):
        write_nifti(place, np.asarray(nib.load(place).dataobj), grid)
    dataset = build(decathlon, tmp_path / "root", spacing=[1.0, 1.0, 1.0])
    problems(dataset, ("case_000.nii.gz", "16000x20000x12000 voxels", "data.layout.spacing"))
    assert "16000x20000x12000" in refused(Preprocessing("none", (1.0,) * 3).image, read_image((str(path),)))
    build(decathlon, tmp_path / "root").items("train")  # nothing is resampled


@pytest.mark.parametrize("stored", ["resaved", "slope", "nearly", "bool"])
def test_labels_read_alike_in_training_and_in_scores(tmp_path, stored):
    """What a scaled header makes 0.9999 or 1.00000006 is 1; what is no whole number says why."""
    label = np.random.default_rng(0).integers(0, 2, (5, 4, 3), np.uint8)
    image = nib.Nifti1Image(label, np.eye(4))
    if stored in ("resaved", "slope"):  # the usual accident: floats that keep the integer type of a header
        image = nib.Nifti1Image(label.astype(float), np.eye(4))
        image.set_data_dtype(np.uint8 if stored == "resaved" else np.int16)
    elif stored == "nearly":
        image = nib.Nifti1Image(np.where(label, np.float32(0.9999), np.float32(0)), np.eye(4))
    path = tmp_path / ("x.h5" if stored == "bool" else "x.nii")
    if stored == "bool":
        with h5py.File(path, "w") as file:
            file["label"] = label.astype(bool)
    else:
        image.to_filename(path)
    header = read_header(str(path), "label")
    for found in (read_label(str(path), str(path), header), read_labels(path).labels):
        assert found.dtype.kind in "iu" and np.array_equal(found, label)


def test_labels_that_are_no_whole_numbers_say_why(tmp_path):
    image = nib.Nifti1Image(np.arange(3.0).repeat(4).reshape(3, 2, 2), np.eye(4))
    image.set_data_dtype(np.uint8)
    image.to_filename(tmp_path / "x.nii")
    nib.Nifti1Image(np.full((3, 2, 2), 0.25, np.float32), np.eye(4)).to_filename(tmp_path / "y.nii")
    for name, words in (
        ("x", ("4 of 12", "0.996", "scl_slope = 0.00784")),
        ("y", ("12 of 12", "0.25", "probabilities")),
    ):
        path = tmp_path / f"{name}.nii"
        texts = {refused(read_label, str(path), str(path), read_header(str(path))), refused(read_labels, path)}
        assert len(texts) == 1 and all(word in text for word in words for text in texts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    scan = Phantom(0, extent=SMALL).scan()
    voxels = scan.voxels[0].astype(np.float32)
    voxels[3, 4, :2] = value
    write_nifti(tmp_path / "a.nii.gz", voxels, scan.affine)
    text = refused(read_image, (str(tmp_path / "a.nii.gz"),))
    assert "a.nii.gz" in text and f"2 of {16 * 20 * 12}" in text
    if np.isnan(value):
        assert np.array_equal(read_image((str(tmp_path / "a.nii.gz"),), True).voxels[0], np.nan_to_num(voxels))
    else:
        refused(read_image, (str(tmp_path / "a.nii.gz"),), True)


def test_damaged_files(tmp_path):
    write_image(tmp_path / "a.nii.gz", Phantom(0, extent=SMALL).scan())
    content = (tmp_path / "a.nii.gz").read_bytes()
    for name, part in {
        "half.nii.gz": content[: len(content) // 2], "empty.nii.gz": b"", "text.nii.gz": b"x" * 1000,
        "short.nii": gzip.decompress(content)[:-100], "none.h5": b"x" * 100,
        "flipped.nii.gz": content[:900] + bytes([content[900] ^ 255]) + content[901:],
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(part)
        assert name in refused(read_image, (str(tmp_path / name),))
    assert "does not exist" in refused(read_image, (str(tmp_path / "x.nii"),))


def test_files_that_are_no_volumes(tmp_path):
    nib.Nifti1Image(np.zeros(4, np.int16), np.eye(4)).to_filename(tmp_path / "flat.nii")
    assert "(4,)" in refused(read_header, str(tmp_path / "flat.nii"))
    nib.Nifti1Image(np.zeros((4, 5, 6, 2, 3), np.int16), np.eye(4)).to_filename(tmp_path / "deep.nii")
    assert "three axes" in refused(read_header, str(tmp_path / "deep.nii"))
    for shape, wanted in {
        (4, 5, 6, 1, 1): (1, 4, 5, 6), (4, 5, 6, 1, 3): (3, 4, 5, 6), (4, 5): (1, 4, 5, 1), (4, 5, 6, 2): (2, 4, 5, 6)
    }.items():  # fmt: skip
        array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        nib.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "ones.nii")
        found = read_image((str(tmp_path / "ones.nii"),)).voxels
        assert found.shape == wanted and np.array_equal(np.moveaxis(found, 0, 3).ravel(), array.ravel())
    singular = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    singular.header["srow_x"], singular.header["sform_code"] = (0, 0, 0, 0), 1
    singular.to_filename(tmp_path / "affine.nii")
    assert "no usable affine" in refused(read_header, str(tmp_path / "affine.nii"))
    colors = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.Nifti1Image(colors, np.eye(4)).to_filename(tmp_path / "colors.nii")
    assert read_storage(str(tmp_path / "colors.nii")).dtype == "RGB"
    assert "holds colors" in refused(read_image, (str(tmp_path / "colors.nii"),))
    nib.Nifti1Image(np.full((4, 5, 6), 1 + 1j, np.complex64), np.eye(4)).to_filename(tmp_path / "complex.nii")
    assert "holds complex numbers" in refused(read_image, (str(tmp_path / "complex.nii"),))


def test_scaled_files_have_their_scaled_values(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    assert np.array_equal(read_image((str(tmp_path / "a.nii"),)).voxels[0], stored.astype(np.float32))


def recipe(root, path):
    path.write_text(f"""
[data]
layout = {{ name = "decathlon", normalize = "none", cache = "{path.parent / "cache"}" }}
root = "{root}"
labeled = "all"
unlabeled = "rest"
val = "val"
channels = 1
mean = [0.0]
std = [1.0]
crop = [8, 8, 8]
scale = [1.0, 1.0]
workers = 0
[network]
name = "tiny"
axes = 3
[stages]
augment = "identity"
contrast = "none"
[train]
steps = 2
batch = 1
""")
    return path


@pytest.fixture
def tiny():
    with registered("network", "tiny", TinyNetwork):
        yield


def test_check_reports_everything_at_once(tmp_path, tiny):
    root = tmp_path / "root"
    made = drawn(root, count=8, unlabeled=2, validation=1)
    good = cli("check", recipe(root, tmp_path / "r.toml"), "--json")
    given = json.loads(good.out or good.err)
    assert good.code == 0 and given["problems"] == []
    assert given["sizes"] == {"labeled": {"16x20x12": 8}, "unlabeled": {"16x20x12": 2}, "val": {"16x20x12": 1}}
    counts = np.bincount(np.concatenate([made[f"case_{n:03d}"].label("decathlon").ravel() for n in range(8)]))
    assert list(given["pixels"]["labeled"].values()) == [*counts, 0]
    images, labels = root / "images", root / "labels"
    (labels / "case_000.nii.gz").unlink()
    write_label(labels / "case_001.nii.gz", Phantom(1, extent=SMALL).scan("lps"), "decathlon")
    write_nifti(labels / "case_002.nii.gz", made["case_002"].tissue[1:], made["case_002"].affine)
    write_label(labels / "case_003.nii.gz", made["case_003"], "2018-2022")  # 4 is no class here
    voxels = made["case_004"].voxels[0].astype(np.float32)
    voxels[0, 0, 0] = np.nan
    write_nifti(images / "case_004.nii.gz", voxels, made["case_004"].affine)
    write_image(images / "case_005.nii.gz", Phantom(5, 2, extent=SMALL).scan())
    (images / "case_008.nii.gz").write_bytes(b"garbage")
    write_nifti(labels / "case_006.nii.gz", made["case_006"].tissue + np.float32(0.5), made["case_006"].affine)
    result = cli("check", recipe(root, tmp_path / "r.toml"), "--json")
    assert result.out, result.err
    found = json.loads(result.out)["problems"]
    wanted = [
        ("labels/case_000.nii.gz", "does not exist"),
        ("labels/case_001.nii.gz has a different affine", "[-1.0, 0.0, 0.0, 7.5]", "[1.0, 0.0, 0.0, -7.5]"),
        ("labels/case_002.nii.gz", "(15, 20, 12)", "(16, 20, 12)"),
        ("labels/case_003.nii.gz", "4"),
        ("images/case_004.nii.gz", "NaN", "1 of 3840"),
        ("images/case_005.nii.gz", "2 channels", "data.channels is 1"),
        ("labels/case_006.nii.gz", "3,840 of 3,840 voxels are not whole numbers"),
        ("images/case_008.nii.gz", "cannot be read"),
    ]
    assert len(found) == len(wanted), found
    for words in wanted:
        assert any(all(word in text for word in words) for text in found), (words, found)
    assert result.code != 0


def test_check_reports_everything_where_nothing_is_left(tmp_path, tiny):
    """Or where a list names a case that is left out."""
    root = tmp_path / "root"
    drawn(root, count=3, unlabeled=1, validation=1)
    (root / "labels/case_001.nii.gz").unlink()
    (root / "train.txt").write_text("case_000\ncase_001\n")
    arguments = ["check", recipe(root, tmp_path / "r.toml"), "--set", "data.labeled=train.txt"]
    result = cli(*arguments)
    assert result.code == 1
    problem, error, *_ = result.err.splitlines()
    assert problem == f"Problem: {root}/labels/case_001.nii.gz does not exist (case case_001)."
    assert error.startswith("Error: ") and "line 2: 'case_001' is not a case of this data set (or it was left" in error
    for number in (0, 2):
        (root / f"labels/case_{number:03d}.nii.gz").unlink()
    given = json.loads(cli("check", tmp_path / "r.toml", "--json").out)["problems"]
    assert [text for text in given if "does not exist" in text] == given[:3]
    assert "None of the 1 training images has a mask" in given[3]


# What is not labeled has no label.


def poison(root, names):
    for name in names:
        (root / f"labels/{name}.nii.gz").write_bytes(b"poison")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_labels_of_unlabeled_cases_are_never_opened(tmp_path, dimensions, monkeypatch):
    root = tmp_path / "root"
    drawn(root, count=3, unlabeled=0)
    facts = json.loads((root / "dataset.json").read_text())
    facts["unlabeled"] = [facts["training"].pop(), facts["training"].pop()]  # with their "label" entries
    (root / "dataset.json").write_text(json.dumps(facts))
    poison(root, ("case_001", "case_002"))
    opened = []
    load = nib.load
    monkeypatch.setattr(nib, "load", lambda path, **options: opened.append(path) or load(path, **options))
    dataset = build(decathlon, root, dimensions=dimensions, data={"val": "none"})
    splits = resolve(dataset, dataset.data)
    assert {case.id for case in dataset.index.splits["train"] if case.label is None} == {"case_001", "case_002"}
    assert splits.unlabeled and all(item.mask is None for item in splits.unlabeled)
    rng = np.random.default_rng(0)
    for item in splits.unlabeled:
        assert dataset.read(item).mask is None and dataset.place(item, (4,) * dimensions, rng) is not None
    for item in splits.labeled[:3]:
        assert dataset.read(item).mask is not None
    assert opened and not [path for path in opened if re.search("labels/case_00[12]", str(path))]


def test_labels_beside_the_image_are_not_opened(tmp_path, monkeypatch):
    import h5py

    root = tmp_path / "root"
    for seed in range(2):
        write_hdf5(root / f"data/{seed}.h5", Phantom(seed, extent=SMALL).scan())
    (root / "train.list").write_text("0\n1\n")
    keys = []
    get = h5py.File.__getitem__
    monkeypatch.setattr(h5py.File, "__getitem__", lambda file, key: keys.append((file.filename, key)) or get(file, key))
    dataset = build(ssl4mis, root, classes=BINARY, labeled_first=1)
    for item in dataset.items("train"):
        dataset.read(item)
        dataset.place(item, (4, 4, 4), np.random.default_rng(0))
    assert (str(root / "data/0.h5"), "label") in keys and (str(root / "data/1.h5"), "label") not in keys


def test_an_item_of_the_unlabeled_stream_has_no_mask_whatever_its_case_has(tmp_path):
    root = tmp_path / "root"
    drawn(root)
    dataset = build(decathlon, root)
    bare = dataset.items("train")[0]
    bare = Item(bare.id, bare.image, None, bare.group)
    poison(root, ("case_000",))
    assert dataset.read(bare).mask is None and dataset.place(bare, (4, 4, 4), np.random.default_rng(0)) is not None


# Slices.


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_slices_are_those_of_the_volume(tmp_path, geometry):
    root = tmp_path / "root"
    drawn(root, (geometry,), channels=2)
    whole = build(decathlon, root, channels=2, normalize="zscore")
    volume = whole.read(whole.items("train")[1])
    for axis in (0, 1, 2, "auto"):
        dataset = build(decathlon, root, channels=2, normalize="zscore", dimensions=2, slice_axis=axis)
        place = 2 if axis == "auto" else axis
        items = [item for item in dataset.items("train") if item.group == "case_001"]
        assert len(items) == volume.image.shape[1 + place]
        for number, item in enumerate(items):
            sample = dataset.read(item)
            assert np.array_equal(sample.image, volume.image.take(number, 1 + place))
            assert np.array_equal(sample.mask, volume.mask.take(number, place))
            assert dataset.size(item) == sample.mask.shape
            assert dataset.parse(f"case_001/{number}") == item
    assert "has the slices 0 to" in refused(dataset.parse, "case_001/99")
    assert "write case_000/0" in refused(dataset.parse, "case_001")


def test_carried_options_rebuild_the_data_set(tmp_path):
    root = tmp_path / "root"
    drawn(root)
    dataset = build(decathlon, root, dimensions=2, slice_axis=1, spacing=[1.0, 2.0, 1.0])
    carried = dataset.carried
    assert carried.classes == {"background": [0], "edema": [1], "necrosis": [2], "enhancing": [3]}
    layout = carried.layout
    assert (layout.slice_axis, layout.spacing, layout.fingerprint) == (1, [1.0, 2.0, 1.0], [])


def test_findings_stop_unless_they_are_to_be_skipped(tmp_path):
    root = tmp_path / "root"
    drawn(root)
    os.unlink(root / "images/case_001.nii.gz")
    text = refused(build(decathlon, root).items, "train")
    assert "case_001" in text and "data.on_error=skip" in text
    skipping = build(decathlon, root, data={"on_error": "skip"})
    problems(skipping, ("case_001", "does not exist"))
    assert list(pairs(skipping)) == ["case_000", "case_002"]


def test_header_shapes(tmp_path):
    header = Header((4, 5, 6), 1, np.diag([2.0, 3.0, 4.0, 1.0]))
    assert Preprocessing("none", (1.0, 1.0, 8.0)).size(header) == (8, 15, 3)
    with pytest.raises(DataError, match="2 values per voxel"):
        write_image(tmp_path / "a.nii", Phantom(0, 2, extent=SMALL).scan())
        read_label(str(tmp_path / "a.nii"), str(tmp_path / "a.nii"), read_header(str(tmp_path / "a.nii")))
