"""Files of volumes: grids, units and labels, and what is damaged or no volume."""

import gzip
import random
import warnings

import h5py
import nibabel as nib
import numpy as np
import pytest
from phantoms import Phantom, write_image, write_nifti
from volume_data import build, refused

from farcluss.errors import DataError
from farcluss_medical.evaluation import read_labels
from farcluss_medical.layouts import scans
from farcluss_medical.volumes import (
    Header,
    Orientation,
    difference,
    read_header,
    read_image,
    read_label,
    read_storage,
)

SMALL = (16.0, 20.0, 12.0)
BINARY = {"background": 0, "tumor": 1}


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


@pytest.mark.parametrize("kind", ["a.nii", "a.nii.gz", "a.hdr"])
def test_damage_anywhere_in_a_header_is_a_volume_or_a_data_error(tmp_path, kind):
    path, rng = tmp_path / kind, random.Random(0)
    scan = nib.Nifti1Image if "nii" in kind else nib.Nifti1Pair
    scan(np.zeros((4, 3, 2), np.int16), np.eye(4)).to_filename(path)
    content = path.read_bytes()
    raw = gzip.decompress(content) if kind.endswith("gz") else content
    failed = 0
    for place in range(0, 352, 4):
        damaged = bytearray(raw)
        damaged[place : place + 4] = bytes(rng.choice((0, 255, 127)) for _ in range(4))
        path.write_bytes(gzip.compress(damaged, 1) if kind.endswith("gz") else damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for read in (read_header, read_storage, lambda name: read_image((name,))):
                try:
                    read(str(path))
                except DataError as error:
                    failed += 1
                    assert kind[:5] in str(error) and len(str(error)) < 700
    assert failed > 20


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
