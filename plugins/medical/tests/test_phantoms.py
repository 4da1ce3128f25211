"""The drawn scans are what they say, since other tests rest on them."""

import json

import nibabel as nib
import numpy as np
import pytest
from phantoms import CORE, EDEMA, ENHANCING, EXACT, GEOMETRIES, Phantom, write_decathlon, write_image, write_label


def places(scan):
    return {tuple(p) for p in np.round(nib.affines.apply_affine(scan.affine, np.argwhere(scan.tissue >= 0)), 6) + 0.0}


@pytest.mark.parametrize("geometry", EXACT)
def test_exact_geometries_are_the_same_voxels_in_another_order(geometry):
    phantom = Phantom(3, 4)
    plain, other = phantom.scan(), phantom.scan(geometry)
    assert "".join(nib.aff2axcodes(other.affine)) == {"ras": "RAS", "lps": "LPS", "permuted": "SLA"}[geometry]
    assert places(plain) == places(other)
    turned = nib.as_closest_canonical(nib.Nifti1Image(np.moveaxis(other.voxels, 0, -1), other.affine))
    assert np.array_equal(np.moveaxis(np.asarray(turned.dataobj), -1, 0), plain.voxels)
    assert np.array_equal(turned.affine, plain.affine)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("seed", range(6))
def test_tissues_are_nested_and_centered_alike(geometry, seed):
    scan, plain = Phantom(seed).scan(geometry), Phantom(seed).scan()
    for tissue in (CORE, EDEMA, ENHANCING):
        assert (scan.tissue == tissue).any()
    assert (scan.voxels[0][scan.tissue > 0] > 0).all() and (scan.voxels[0] == 0).any() and scan.voxels.max() <= 1000

    def center(s):
        return nib.affines.apply_affine(s.affine, np.argwhere(s.tissue > 0)).mean(0)

    assert np.abs(center(scan) - center(plain)).max() < 1.5
    volume = abs(np.linalg.det(scan.affine[:3, :3])) * (scan.tissue > 0).sum()
    assert 0.7 < volume / (plain.tissue > 0).sum() < 1.3


def test_channels_seeds_and_missing_tissues_differ():
    scan = Phantom(0, 4).scan()
    means = np.array([[c[scan.tissue == t].mean() for t in range(1, 4)] for c in scan.voxels])
    assert len({tuple(row) for row in means.argsort(1)}) > 1
    assert not np.array_equal(scan.tissue, Phantom(1).scan().tissue)
    assert not Phantom(0, tumor=False).scan().tissue.any()
    assert set(np.unique(Phantom(0, enhancing=False).scan().tissue)) == {0, CORE, EDEMA}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1)])
def test_files_have_their_geometry_in_the_header(tmp_path, geometry, codes):
    scan = Phantom(0, 2).scan(geometry)
    write_image(tmp_path / "x.nii", scan, np.float32, codes)
    write_label(tmp_path / "y.nii.gz", scan, "2018-2022", codes=codes)
    image, label = nib.load(tmp_path / "x.nii"), nib.load(tmp_path / "y.nii.gz")
    assert np.allclose(image.affine, scan.affine, atol=1e-4) and np.allclose(label.affine, scan.affine, atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == codes
    assert np.array_equal(np.moveaxis(np.asarray(image.dataobj), -1, 0), scan.voxels)
    assert image.get_data_dtype() == np.float32
    assert set(np.unique(label.dataobj)) == {0, 1, 2, 4}


def test_a_decathlon_folder(tmp_path):
    scans = write_decathlon(tmp_path, 2, 1, 1, 1, channels=2, geometries=("ras", "lps"), tumorless=(1,))
    facts = json.loads((tmp_path / "dataset.json").read_text())
    assert [len(facts[key]) for key in ("training", "unlabeled", "validation", "testing")] == [2, 1, 1, 1]
    assert not (tmp_path / "labels/case_002.nii.gz").exists() and "label" not in facts["unlabeled"][0]
    assert list(scans) == [f"case_{n:03d}" for n in range(5)] and not scans["case_001"].tissue.any()
    assert facts["labels"] == {"0": "background", "1": "edema", "2": "necrosis", "3": "enhancing"}
    assert nib.load(tmp_path / "images/case_003.nii.gz").shape == (40, 48, 24, 2)
