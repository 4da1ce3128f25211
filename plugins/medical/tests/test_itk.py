"""NRRD, MetaImage and DICOM: the same scan in every format is the same scan, at the same place."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from commandline import cli
from nibabel.orientations import inv_ornt_aff
from phantoms import EXACT, Phantom, write_label
from test_writer import oracle, predict  # noqa: F401
from volume_data import BINARY, SMALL, build, problems, refused

from farcluss.errors import PluginError
from farcluss_medical.evaluation import read_labels
from farcluss_medical.itk import TO_RAS
from farcluss_medical.layouts import scans
from farcluss_medical.volumes import Header, Orientation, read_header, read_image, read_storage

FORMATS = ("nrrd", "mha", "mhd", "dicom")


def itk_image(voxels, affine, vector=False):
    """`(X, Y, Z)`, or `(X, Y, Z, C)` for vectors, at a place given as in NIfTI."""
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0, *range(3, voxels.ndim)), isVector=vector)
    lps = TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def write_series(folder, voxels, affine, skip=()):
    """A DICOM series of 16-bit slices, named in no order."""
    folder.mkdir(parents=True)
    image, lps = itk_image(voxels, affine), TO_RAS @ affine
    directions = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    for number in (n for n in range(voxels.shape[2]) if n not in skip):
        part = image[:, :, number : number + 1]
        tags = {
            "0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0008|0018": f"1.2.3.4.{number + 1}",
            "0020|0037": "\\".join(f"{value:.9f}" for value in directions[:, :2].T.ravel()),
            "0020|0032": "\\".join(f"{value:.6f}" for value in lps[:3] @ [0, 0, number, 1]),
            "0020|0013": str(number), "0018|0050": "99",
        }  # fmt: skip
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"IM{number * 7 % voxels.shape[2]:03d}.dcm"))
        writer.Execute(part)


def write(folder, name, form, scan):
    """A scan in a format; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "dicom":
        write_series(folder / name, scan.voxels[0], scan.affine)
        return folder / name
    sitk.WriteImage(itk_image(scan.voxels[0], scan.affine), str(folder / f"{name}.{form}"))
    return folder / f"{name}.{form}"


@pytest.mark.parametrize("geometry", [*EXACT[1:], "oblique"])
@pytest.mark.parametrize("form", FORMATS)
def test_one_scan_in_every_format_is_the_same(tmp_path, form, geometry):
    scan = Phantom(3, extent=SMALL).scan(geometry, (1.0, 1.25, 2.0))
    path = str(write(tmp_path, "x.1", form, scan))
    header, volume = read_header(path), read_image((path,))
    given = Orientation.of(Header(scan.voxels.shape[1:], 1, scan.affine))
    found = Orientation.of(header)  # a series is sorted to a right-handed grid, whatever it was written from
    np.testing.assert_array_equal(found.apply(volume.voxels), given.apply(scan.voxels))
    np.testing.assert_allclose(
        header.affine @ inv_ornt_aff(found.ornt, found.shape),
        scan.affine @ inv_ornt_aff(given.ornt, given.shape),
        atol=1e-5,
    )
    stored = read_storage(path)
    assert stored.placed and stored.orientation == "".join(nib.aff2axcodes(header.affine))


def test_channels_labels_and_unplaced_files(tmp_path):
    scan = Phantom(3, 2, extent=SMALL).scan("lps")
    sitk.WriteImage(itk_image(np.moveaxis(scan.voxels, 0, 3), scan.affine, vector=True), str(tmp_path / "x.nrrd"))
    assert read_header(str(tmp_path / "x.nrrd")).channels == 2
    np.testing.assert_array_equal(read_image((str(tmp_path / "x.nrrd"),)).voxels, scan.voxels)
    sitk.WriteImage(itk_image(scan.label("binary"), scan.affine), str(tmp_path / "y.mha"))
    write_label(tmp_path / "y.nii.gz", scan, "binary")
    np.testing.assert_array_equal(read_labels(tmp_path / "y.mha").labels, read_labels(tmp_path / "y.nii.gz").labels)
    text = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n"
    (tmp_path / "z.nrrd").write_bytes(text.encode() + bytes(8))
    assert not read_storage(str(tmp_path / "z.nrrd")).placed
    (tmp_path / "z.nrrd").write_bytes(b"no volume")
    assert "z.nrrd cannot be read" in refused(read_header, str(tmp_path / "z.nrrd"))


def test_slices_have_scales_of_their_own(tmp_path):
    """As in PET; GDCM wrote a slope of 1 into each file, in two bytes."""
    scan = Phantom(3, extent=SMALL).scan("lps", (1.0, 1.25, 2.0))
    before = scan.voxels[0]
    write_series(tmp_path / "x", before, scan.affine)
    for path in (tmp_path / "x").iterdir():
        content = bytearray(path.read_bytes())
        place = content.index(b"\x28\x00\x53\x10\x02\x00\x00\x00") + 8
        content[place : place + 2] = b"%d " % (1 + int(path.stem[2:]) % 5)
        path.write_bytes(content)
    count = before.shape[2]
    slopes = np.array([1 + n * 7 % count % 5 for n in range(count)])
    np.testing.assert_array_equal(read_image((str(tmp_path / "x"),)).voxels[0], before * slopes)


def test_series_that_are_no_volume(tmp_path):
    """A missing slice would move all others; the spacing is that of positions, not of a tag."""
    scan = Phantom(3, extent=SMALL).scan("lps", (1.0, 1.25, 2.0))
    write_series(tmp_path / "gap", scan.voxels[0], scan.affine, skip=(3,))
    assert "slices are missing or repeated" in refused(read_header, str(tmp_path / "gap"))
    write_series(tmp_path / "two", scan.voxels[0], scan.affine)
    for path in (tmp_path / "two").iterdir():
        image = sitk.ReadImage(str(path))
        image.SetMetaData("0020|000e", "1.2.3.5")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path.with_name(f"b{path.name}")))
        writer.Execute(image)
    assert "2 DICOM series" in refused(read_header, str(tmp_path / "two"))
    (tmp_path / "none").mkdir()
    assert "no DICOM series" in refused(read_header, str(tmp_path / "none"))


def test_a_data_set_of_mixed_formats(tmp_path):
    """In training, in both checks, in predictions and in scores; a prediction is NIfTI on the scan's own grid."""
    kept = {}
    for number, form in enumerate(FORMATS):
        scan = kept[form] = Phantom(number, extent=SMALL).scan("oblique")
        write(tmp_path / "images", form, form, scan)
        kind = "mha" if form == "nrrd" else "nrrd"
        (tmp_path / "labels").mkdir(exist_ok=True)
        sitk.WriteImage(itk_image(scan.label("binary"), scan.affine), str(tmp_path / f"labels/{form}.{kind}"))
    dataset = build(scans, tmp_path, classes=BINARY)
    assert problems(dataset) == [] and {item.id for item in dataset.items("train")} == set(FORMATS)
    before = {item.id: dataset.read(item) for item in dataset.items("train")}
    for form, scan in kept.items():
        assert before[form].mask.sum() == scan.label("binary").sum() and before[form].image.sum() == scan.voxels.sum()
    slope = tmp_path / "images/mhd.raw"
    slope.write_bytes(bytes(len(slope.read_bytes())))
    item = dataset.parse("mhd")
    assert not dataset.read(item).image.any(), "the voxels lie in another file than the header"
    given = predict(tmp_path, tmp_path / "images")
    assert given.code == 0, given.err
    for form, scan in kept.items():
        place = tmp_path / ("out/dicom/dicom.nii.gz" if form == "dicom" else f"out/{form}.nii.gz")
        found = nib.load(place)
        np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
        assert found.shape == scan.voxels.shape[1:] and found.header["sform_code"] > 0
        assert read_header(str(place)).shape == found.shape
    scored = cli("medical", "evaluate", tmp_path / "labels", tmp_path / "out", "--labels", 1, "--json")
    assert scored.code == 0 and json.loads(scored.out)["cases"] == len(FORMATS)
    assert json.loads(scored.out)["extra_predictions"] == []


def test_without_simple_itk_one_line_says_what_to_install(tmp_path, monkeypatch):
    for number in range(2):
        scan = Phantom(number, extent=SMALL).scan()
        write(tmp_path / "images", f"{number}", "nrrd", scan)
        write_label(tmp_path / f"labels/{number}.nii.gz", scan)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    text = refused(build, scans, tmp_path, classes=BINARY)
    assert "pip install 'SimpleITK>=2.4'" in text and "farcluss-medical" in text
    given = predict(tmp_path, tmp_path / "images")
    assert given.code == 1 and given.err.count("pip install") == 1
    with pytest.raises(PluginError):
        read_storage(str(tmp_path / "images/0.nrrd"))
