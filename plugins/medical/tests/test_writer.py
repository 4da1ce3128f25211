"""Predictions lie where their scans lie: what goes in as a label comes out as the same label, in every geometry."""

import io
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from commandline import cli
from PIL import Image
from registered import registered
from torch import nn

from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import save_weights
from farcluss.networks.base import Prediction
from farcluss_medical.inference import classes_on_grid, on_grid, predict_volume
from farcluss_medical.preprocessing import Preprocessing
from farcluss_medical.viewers import draw_case, largest_structure, slicer_colors
from farcluss_medical.volumes import read_header
from farcluss_medical.writer import NiftiWriter, largest_components

VALUES = {"background": [0], "edema": [2], "core": [1], "enhancing": [4]}
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
GEOMETRIES = {
    "ras": np.diag([1.0, 1, 1, 1]),
    "lps": np.diag([-1.0, -1, 1, 1]),
    "permuted": np.array([[0, 0, 1.5, -3], [-1.5, 0, 0, 40], [0, 1.5, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.block([[TURN @ np.diag([0.9, 1.1, 2.5]), np.array([[-11.3], [7.7], [3.1]])], [np.zeros((1, 3)), 1]]),
    "anisotropic": np.diag([0.7, 0.7, 5, 1]),
}


class Oracle(nn.Module):
    """Says of each voxel the class whose value the image has there."""

    def __init__(self, in_channels, classes, dim, pretrained):
        super().__init__()
        self.values = nn.Parameter(torch.tensor([value[0] for value in VALUES.values()], dtype=torch.float32))

    def forward(self, images):
        shape = (1, -1, *[1] * (images.dim() - 2))
        return Prediction(-30 * (images[:, :1] - self.values.view(shape)).abs(), None)


def card(**layout) -> Card:
    options = {"name": "scans", "normalize": "none", "spacing": None, "fingerprint": [], "slice_axis": "auto", **layout}
    recipe = {"data": {"layout": options, "classes": VALUES}, "eval": {"writer": "nifti"}}
    crop = (8, 8) if layout.get("dimensions") == 2 else (8, 8, 8)
    return Card(network="oracle", options={}, channels=1, dim=0, classes=list(VALUES), mean=[0.0], std=[1.0],
                palette=((0, 0, 0),) * 4, recipe=recipe, axes=len(crop),
                inference=Inference(window=crop, stride=0.5))  # fmt: skip


@pytest.fixture(autouse=True)
def oracle():
    with registered("network", "oracle", Oracle):
        yield


def label(shape=(17, 13, 11)) -> np.ndarray:
    """Boxes of all values, at the borders too, and single voxels."""
    values = np.zeros(shape, np.uint8)
    values[:6, 2:9, :5], values[9:, 4:, 3:9], values[4:12, 5:8, 6:] = 2, 1, 4
    values[0, 0, 0], values[-1, -1, -1], values[3, 11, 10] = 4, 2, 1
    return values


def write(path: Path, array, affine, codes=(1, 1), units=("mm", "sec"), kind=nib.Nifti1Image) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = kind(array, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    return path


def predict(folder: Path, scan, *options, **layout):
    torch.manual_seed(0)
    save_weights(folder / "oracle.safetensors", Oracle(1, 4, 0, False), card(**layout))
    scans = scan if isinstance(scan, list) else [scan]
    return cli("predict", folder / "oracle.safetensors", *scans, "-o", folder / "out", "--device", "cpu", *options)


PLACE = ("dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
         "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip


class TestGeometry:
    @pytest.mark.parametrize("codes", [(1, 1), (0, 2), (3, 0), (0, 0)])
    @pytest.mark.parametrize("name", GEOMETRIES)
    def test_label_in_label_out(self, tmp_path, name, codes):
        truth = label()
        scan = write(tmp_path / "scan.nii.gz", truth.astype(np.int16), GEOMETRIES[name], codes)
        assert predict(tmp_path, scan).code == 0
        given, found = nib.load(scan), nib.load(tmp_path / "out" / "scan.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), truth)
        assert found.get_data_dtype() == np.uint8
        for field in PLACE:
            assert given.header[field].tobytes() == found.header[field].tobytes(), field
        np.testing.assert_array_equal(given.affine, found.affine)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("name", ["lps", "permuted", "oblique"])
    def test_by_slices(self, tmp_path, name, axis):
        scan = write(tmp_path / "scan.nii", label(), GEOMETRIES[name])
        assert predict(tmp_path, scan, dimensions=2, slice_axis=axis).code == 0
        np.testing.assert_array_equal(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj, label())

    def test_another_spacing_and_back(self, tmp_path):
        """On a grid twice as fine and back, boxes with even bounds come out as they went in."""
        truth = np.zeros((16, 12, 10), np.uint8)
        truth[4:12, 2:8, 2:8] = 1
        scan = write(tmp_path / "scan.nii", truth, np.diag([2.0, 2, 2, 1]))
        assert predict(tmp_path, scan, spacing=[1.0, 1.0, 1.0]).code == 0
        found = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
        inner = np.zeros_like(truth, bool)
        inner[5:11, 3:7, 3:7] = True
        outer = np.zeros_like(inner)
        outer[3:13, 1:9, 1:9] = True
        assert (found[inner] == 1).all() and (found[~outer] == 0).all()

    def test_nifti_2_stays_nifti_2(self, tmp_path):
        scan = write(tmp_path / "scan.nii", label(), GEOMETRIES["oblique"], kind=nib.Nifti2Image)
        assert predict(tmp_path, scan).code == 0
        found = nib.load(tmp_path / "out" / "scan.nii.gz")
        assert isinstance(found, nib.Nifti2Image)
        np.testing.assert_array_equal(found.dataobj, label())

    @pytest.mark.parametrize("placed", [False, True])
    def test_pairs_of_files_and_analyze_with_an_affine_of_its_own(self, tmp_path, placed):
        """SPM keeps the affine of an Analyze file in a .mat beside it; the prediction lies where the network saw it."""
        folder = tmp_path / "scans"
        folder.mkdir()
        affine = GEOMETRIES["oblique"] if placed else np.diag([-2.0, 3, 4, 1])
        nib.Spm99AnalyzeImage(label().astype(np.int16), affine).to_filename(folder / "analyze.img")
        if not placed:
            (folder / "analyze.mat").unlink()
        write(folder / "pair.img", label().astype(np.int16), GEOMETRIES["lps"], kind=nib.Nifti1Pair)
        assert predict(tmp_path, folder).code == 0
        for name in ("analyze", "pair"):
            given, found = nib.load(folder / f"{name}.img"), nib.load(tmp_path / f"out/{name}.nii.gz")
            np.testing.assert_allclose(found.affine, given.affine, atol=1e-5)
            np.testing.assert_array_equal(found.dataobj, label())
            assert found.header["sform_code"] > 0
            assert read_header(str(folder / f"{name}.hdr")).shape == label().shape
        result = cli("medical", "evaluate", folder, tmp_path / "out", "--json")
        assert json.loads(result.out)["mean"]["dice"] == 1

    def test_a_scan_too_large_to_resample_is_named(self, tmp_path):
        scan = write(tmp_path / "x.nii.gz", label(), np.diag([500.0, 500, 500, 1]))
        result = predict(tmp_path, scan, spacing=[1.0, 1.0, 1.0])
        assert result.code == 1 and "x.nii.gz: 17x13x11 voxels of 500x500x500 mm would become 8500x" in result.err

    def test_scaled_values_are_those_that_count(self, tmp_path):
        """A file may store other numbers than it means, by slope and intercept; predictions do not."""
        image = nib.Nifti1Image(2 * label().astype(np.int16) - 20, np.eye(4))
        image.header.set_slope_inter(0.5, 10)
        nib.save(image, tmp_path / "scan.nii")
        np.testing.assert_array_equal(nib.load(tmp_path / "scan.nii").dataobj, label())
        assert predict(tmp_path, tmp_path / "scan.nii").code == 0
        found = nib.load(tmp_path / "out" / "scan.nii.gz")
        np.testing.assert_array_equal(found.dataobj, label())
        np.testing.assert_array_equal(found.dataobj.get_unscaled(), label())


class TestCases:
    def test_channels_of_a_case(self, tmp_path):
        folder = tmp_path / "scans"
        folder.mkdir()
        for name in ("a_0000", "b_0000"):
            write(folder / f"{name}.nii.gz", label(), np.eye(4))
        assert predict(tmp_path, folder).code == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.json", "a.nii.gz", "b.json", "b.nii.gz"]

    def test_modalities_of_a_folder(self, tmp_path):
        folder = tmp_path / "BraTS_1"
        folder.mkdir()
        for end in ("flair", "t1", "seg"):
            write(folder / f"BraTS_1_{end}.nii.gz", label(), np.eye(4))
        assert predict(tmp_path, folder, name="brats", modalities=["flair"]).code == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["BraTS_1.json", "BraTS_1.nii.gz"]

    @pytest.mark.parametrize(
        "ends",
        [("_flair", "_t1", "_t1ce", "_t2"), ("-t2f", "-t1n", "-t1c", "-t2w")],
    )
    def test_all_modalities(self, ends):
        files = [Path("c1") / f"c1{end}.nii.gz" for end in sorted((*ends, ends[0][0] + "seg"))]
        ((name, channels),) = NiftiWriter(card(name="brats", modalities=[end[1:] for end in ends])).cases(files)
        assert (name, channels) == ("c1", tuple(Path("c1") / f"c1{end}.nii.gz" for end in ends))

    def test_numbers_of_cases_are_not_those_of_channels(self):
        files = [Path(f"{name}.nii.gz") for name in ("amos_0001", "amos_0004", "b_0000", "b_0001")]
        assert NiftiWriter(card()).cases(files) == [
            ("b", (files[2], files[3])), ("amos_0001", (files[0],)), ("amos_0004", (files[1],))]  # fmt: skip

    def test_a_folder_without_modalities_is_read_by_number(self, tmp_path):
        folder = tmp_path / "scans"
        folder.mkdir()
        write(folder / "a_0000.nii.gz", label(), np.eye(4))
        write(folder / "b.nii.gz", label(), np.eye(4))
        assert predict(tmp_path, folder, modalities=["flair"]).code == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.json", "a.nii.gz", "b.json", "b.nii.gz"]

    def test_hdf5_files(self, tmp_path):
        """Files of benchmarks: what is predicted is scored against the labels in them."""
        for case in "ab":
            (tmp_path / f"scans/{case}").mkdir(parents=True)
            with h5py.File(tmp_path / f"scans/{case}/mri.h5", "w") as file:
                file["image"], file["label"] = label().astype(np.float32), label()
        assert predict(tmp_path, tmp_path / "scans").code == 0
        found = nib.load(tmp_path / "out/b/mri.nii.gz")
        np.testing.assert_array_equal(found.dataobj, label())
        np.testing.assert_array_equal(found.affine, np.eye(4))
        scored = cli("medical", "evaluate", tmp_path / "scans", tmp_path / "out", "--protocol", "ssl4mis", "--json")
        assert json.loads(scored.out)["mean"]["dice"] == 1

    def test_too_many_channels(self, tmp_path):
        for channel in range(2):
            write(tmp_path / f"a_000{channel}.nii.gz", label(), np.eye(4))
        result = predict(tmp_path, [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
        assert result.code == 1 and "2 channels, but the network takes 1" in result.err

    def test_channels_that_differ_in_place(self, tmp_path):
        write(tmp_path / "a_0000.nii.gz", label(), np.eye(4))
        write(tmp_path / "a_0001.nii.gz", label(), np.diag([1.0, 1, 2, 1]))
        result = predict(tmp_path, [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
        assert result.code == 1 and "[0.0, 0.0, 2.0, 0.0]" in result.err and "[0.0, 0.0, 1.0, 0.0]" in result.err

    @pytest.mark.parametrize("content", [b"", b"no volume", "damaged"])
    def test_a_damaged_file_is_named_and_the_others_are_predicted(self, tmp_path, content):
        good = write(tmp_path / "good.nii.gz", label(), np.eye(4))
        bad = tmp_path / "bad.nii.gz"
        bad.write_bytes(good.read_bytes()[:200] if content == "damaged" else content)
        result = predict(tmp_path, [good, bad])
        assert result.code == 1 and "bad.nii.gz cannot be read" in result.err
        assert (tmp_path / "out" / "good.nii.gz").is_file()

    def test_preprocessing_comes_from_the_weights(self):
        found = NiftiWriter(card(normalize="zscore", clip=[1, 99], spacing=[1, 2, 3], nan="zero")).preprocessing
        assert found == Preprocessing("zscore", (1, 2, 3), (), (1, 99), True)

    def test_weights_for_pictures(self, tmp_path):
        scan = write(tmp_path / "scan.nii.gz", label(), np.eye(4))
        facts = card().model_copy(update={"recipe": {"data": {"layout": {"name": "folder"}}}})
        save_weights(tmp_path / "w.safetensors", Oracle(1, 4, 0, False), facts)
        result = cli("predict", tmp_path / "w.safetensors", scan, "--writer", "nifti", "-o", tmp_path / "out")
        assert result.code == 1 and "not trained on a layout of volumes" in result.err


class TestMaps:
    def test_probabilities_and_entropy(self, tmp_path):
        scan = write(tmp_path / "scan.nii.gz", label(), GEOMETRIES["permuted"])
        assert predict(tmp_path, scan, "--probs", "--entropy").code == 0
        probs, entropy = (nib.load(tmp_path / "out" / f"scan_{kind}.nii.gz") for kind in ("probs", "entropy"))
        values, truth = np.asarray(probs.dataobj), label().astype(np.float64)
        distance = np.abs(truth[..., None] - np.array([value[0] for value in VALUES.values()]))
        wanted = np.exp(-30 * distance) / np.exp(-30 * distance).sum(-1, keepdims=True)
        np.testing.assert_allclose(values, wanted, atol=1e-6)
        safe = np.where(wanted > 0, wanted, 1)
        np.testing.assert_allclose(entropy.dataobj, -(safe * np.log(safe)).sum(-1) / np.log(4), atol=1e-6)
        np.testing.assert_array_equal(probs.affine, GEOMETRIES["permuted"].astype(np.float32))

    def test_the_record(self, tmp_path):
        scan = write(tmp_path / "scan.nii.gz", label(), np.eye(4))
        assert predict(tmp_path, scan, "--set", "largest_component=true", "--set", "mirror=true").code == 0
        record = json.loads((tmp_path / "out" / "scan.json").read_text())
        assert record["largest_component"] is True and record["inference"]["mirror"] is True
        assert set(record["inference"]) == {
            "window",
            "stride",
            "blend",
            "precision",
            "mirror",
        }  # what a volume goes through
        assert record["labels"] == {"background": 0, "edema": 2, "core": 1, "enhancing": 4}
        assert "Research use only" in record["notice"] and record["files"] == [str(scan)]

    def test_largest_components(self):
        classes = np.zeros((9, 9, 9), np.uint8)
        classes[:3, :3, :3], classes[5:, 5:, 5:], classes[0, 8, 0] = 1, 1, 2
        kept = largest_components(classes, 4)
        assert (kept == 1).sum() == 64 and (kept[5:, 5:, 5:] == 1).all() and kept[0, 8, 0] == 2 and kept[0, 0, 0] == 0


def test_weights_of_several_folds_are_averaged(tmp_path):
    """Also on a grid of their own; weights that prepare scans otherwise are refused by the name of what differs."""
    scan = write(tmp_path / "scan.nii.gz", label(), GEOMETRIES["permuted"])
    paths = []
    for number, shift in enumerate((0.0, 0.02, -0.1)):
        network = Oracle(1, 4, 0, False)
        network.values.data += shift
        paths.append(tmp_path / f"{number}.safetensors")
        save_weights(paths[-1], network, card(spacing=[1.0, 1.0, 1.0]))
    probs = []
    for number, chosen in enumerate([[path] for path in paths] + [paths]):
        words = [word for path in chosen[1:] for word in ("--also", path)]
        given = cli("predict", chosen[0], scan, "-o", tmp_path / f"out{number}", "--probs", *words)
        assert given.code == 0, given.err
        probs.append(np.asarray(nib.load(tmp_path / f"out{number}/scan_probs.nii.gz").dataobj))
    np.testing.assert_allclose(probs[3], np.mean(probs[:3], axis=0), atol=1e-6)
    assert np.abs(probs[3] - probs[0]).max() > 0.01
    save_weights(tmp_path / "other.safetensors", Oracle(1, 4, 0, False), card(spacing=[2.0, 1.0, 1.0]))
    given = cli("predict", paths[0], scan, "--also", tmp_path / "other.safetensors", "-o", tmp_path / "none")
    assert given.code == 1 and "they differ in spacing.\nspacing is (2.0, 1.0, 1.0) there" in given.err


def test_an_output_that_is_not_finite_is_no_prediction(tmp_path):
    network = Oracle(1, 4, 0, False)
    network.values.data[1] = np.nan
    save_weights(tmp_path / "nan.safetensors", network, card())
    scan = write(tmp_path / "scan.nii.gz", label(), np.eye(4))
    given = cli("predict", tmp_path / "nan.safetensors", scan, "-o", tmp_path / "out")
    assert given.code == 1 and "not finite" in given.err and not (tmp_path / "out/scan.nii.gz").exists()


class TestViewers:
    def test_colors_and_names(self, tmp_path):
        scan = write(tmp_path / "scan.nii.gz", label(), np.eye(4))
        facts = card().model_copy(update={"palette": ((0, 0, 0), (10, 20, 30), (40, 50, 60), (70, 80, 90))})
        save_weights(tmp_path / "w.safetensors", Oracle(1, 4, 0, False), facts)
        given = cli("predict", tmp_path / "w.safetensors", scan, "-o", tmp_path / "out", "--set", "colors=true")
        assert given.code == 0, given.err
        snap = [line.split() for line in (tmp_path / "out/scan_labels.txt").read_text().splitlines() if line[0] != "#"]
        assert snap[0] == ["0", "0", "0", "0", "0", "0", "0", '"background"']
        assert snap[1] == ["2", "10", "20", "30", "1", "1", "1", '"edema"'] and snap[3][0] == "4"
        slicer = (tmp_path / "out/scan_labels.ctbl").read_text().splitlines()
        assert slicer[1:3] == ["0 background 0 0 0 0", "2 edema 10 20 30 255"]
        assert slicer_colors(["a b"], [1], ((1, 2, 3),)).endswith("1 a_b 1 2 3 0\n")

    def test_a_picture_of_the_whole_case(self, tmp_path):
        """Its slices go through the largest structure; the truth has a row where it is known."""
        scan = write(tmp_path / "scan.nii.gz", label(), GEOMETRIES["lps"])
        write(tmp_path / "truths/scan.nii.gz", label(), GEOMETRIES["lps"])
        sizes = {}
        for name, options in {"without": (), "with": ("--set", f"truths={tmp_path}/truths", "--overwrite")}.items():
            assert predict(tmp_path, scan, "--overlay", *options).code == 0
            sizes[name] = Image.open(tmp_path / "out/scan_overlay.png").size
        assert sizes["with"][0] == sizes["without"][0] and sizes["with"][1] > 1.4 * sizes["without"][1]
        assert "not a folder" in predict(tmp_path, scan, "--overlay", "--set", "truths=none", "--overwrite").err

    def test_what_a_picture_shows(self):
        """Colors where the prediction is; the patient's right and front on the left, the head on top."""
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[6:, 6:, 6:], mask[0, 0, 0] = 1, 1
        assert largest_structure(mask) == (6, 6, 6) and largest_structure(np.zeros_like(mask)) == (4, 4, 4)
        image = np.ones(mask.shape, np.float32)
        drawn = np.asarray(Image.open(io.BytesIO(draw_case(image, [mask], (1, 1, 1), ((0,) * 3, (255, 0, 0))))))
        below = drawn[388 : 388 + 384]
        for left in (0, 388, 776):
            pane = below[:, left : left + 384]
            assert pane[5, 5].tolist() == [128, 0, 0] and not pane[200, 200].any()


class Constant(nn.Module):
    """Gives the same smooth function of the window's own values; not symmetric under mirrors."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        ramp = torch.linspace(0, 1, images.shape[-1], dtype=images.dtype)
        return Prediction(torch.cat([images * ramp, 1 - images * self.weight], 1), None)


def test_mirrors_are_averaged():
    """Float64 oracle: the mean of the softmax over all eight mirror images."""
    from farcluss.inference.weights import Model

    image = np.random.default_rng(0).normal(size=(1, 6, 5, 4)).astype(np.float32)
    facts = card().model_copy(update={"inference": Inference(), "classes": ["a", "b"]})
    found = predict_volume(Model(Constant(), facts), image, None, mirror=True).numpy()
    wanted = np.zeros((2, 6, 5, 4))
    for flips in np.ndindex(2, 2, 2):
        axes = tuple(axis + 1 for axis in range(3) if flips[axis])
        view = np.flip(image.astype(np.float64), axes)
        logits = np.concatenate([view * np.linspace(0, 1, 4), 1 - view])
        probs = np.exp(logits) / np.exp(logits).sum(0)
        wanted += np.flip(probs, axes) / 8
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_classes_of_interpolated_probabilities():
    """Not interpolated classes: the argmax of interpolated probabilities, by PyTorch at once and class by class."""
    probs = torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(0)
    size = (9, 9, 7)
    np.testing.assert_array_equal(classes_on_grid(probs, size), on_grid(probs, size).argmax(0).numpy())
    np.testing.assert_array_equal(classes_on_grid(probs, (5, 4, 6)), probs.argmax(0).numpy())
