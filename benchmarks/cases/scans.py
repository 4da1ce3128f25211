"""Scans: small volumes in the layout `scans`."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np

from cases import kit
from cases.kit import LEARNING, READY, Case, left_out, refused, told, trial, write

RECIPE = f"""
[data]
root = "."
layout = {{ name = "scans", cache = "cache", unlabeled = "images" }}
classes = {{ background = 0, tumor = 1 }}
val = "1/4"
mean = 0.0
std = 1.0
channels = 1
crop = 16
workers = 0
[network]
name = "monai"
architecture = "BasicUNet"
spatial_dims = 3
arguments = {{ features = [8, 8, 8, 8, 8, 8] }}
{LEARNING.strip()}
writer = "nifti"
"""
SHAPE = (20, 18, 16)
CHECK, CORE = "medical check r.toml", "check r.toml"
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def volume(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (int16) and its label (uint8): a box that is brighter."""
    label = np.zeros(SHAPE, np.uint8)
    label[4 + number : 12 + number, 5:12, 4:11] = 1
    noise = np.random.default_rng(number).normal(100, 10, SHAPE)
    return (noise + 80 * label).astype(np.int16), label


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, **header: object) -> Path:
    """Write a volume with both form codes set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def scans(folder: Path, cases: int = 5, labeled: int = 4, **recipe: str) -> Path:
    """`images/c0.nii.gz` and so on, `labels/` for the first ones, `r.toml`."""
    for number in range(cases):
        image, label = volume(number)
        nifti(folder / f"images/c{number}.nii.gz", image)
        if number < labeled:
            nifti(folder / f"labels/c{number}.nii.gz", label)
    write(folder / "r.toml", kit.changed(RECIPE, **recipe))
    return folder


def also(*makes: kit.Make, **recipe: str) -> kit.Make:
    """`scans`, and then more."""
    return kit.and_then(*makes, first=lambda folder: scans(folder, **recipe))  # type: ignore[arg-type]


def label(array: np.ndarray | None = None, affine: np.ndarray = AFFINE, number: int = 1, **header: object) -> kit.Make:
    """`scans`, one label of which is another."""
    return also(
        lambda d: nifti(d / f"labels/c{number}.nii.gz", volume(number)[1] if array is None else array, affine, **header)
    )


def image(array: np.ndarray | None = None, affine: np.ndarray = AFFINE, number: int = 1, **header: object) -> kit.Make:
    """`scans`, one image of which is another."""
    return also(
        lambda d: nifti(d / f"images/c{number}.nii.gz", volume(number)[0] if array is None else array, affine, **header)
    )


def all_labels(factor: int) -> kit.Make:
    return also(*(lambda d, n=n: nifti(d / f"labels/c{n}.nii.gz", volume(n)[1] * np.uint8(factor)) for n in range(4)))  # type: ignore[misc]


def resaved(folder: Path) -> None:
    """Float labels saved with a header of uint8: the library scales them."""
    scans(folder)
    for number in range(4):
        out = nib.Nifti1Image(volume(number)[1].astype(np.float64), AFFINE)
        out.set_data_dtype(np.uint8)
        nib.save(out, folder / f"labels/c{number}.nii.gz")


def others(ending: str, only: bool = False) -> kit.Make:
    """`scans`, with cases in a format of another library: NRRD or MetaImage, or bytes like them."""

    def make(folder: Path) -> None:
        scans(folder)
        for kind in ("images", "labels"):
            for number in range(5 - (kind == "labels")) if only else (1,):
                path = folder / f"{kind}/c{number}.nii.gz"
                array = nib.load(path).get_fdata()
                path.unlink()
                itk(folder / f"{kind}/c{number}{ending}", array.astype(np.int16))

    return make


def itk(path: Path, array: np.ndarray) -> None:
    """A volume as SimpleITK writes it; without it, a header that names the format."""
    try:
        import SimpleITK
    except ImportError:
        write(path, b"NRRD0004\n" if path.suffix == ".nrrd" else b"ObjectType = Image\n")
        return
    out = SimpleITK.GetImageFromArray(array.T)
    out.SetSpacing((1.0, 1.0, 2.0))
    SimpleITK.WriteImage(out, str(path))


def dicom(folder: Path) -> None:
    scans(folder)
    for number in range(4):
        write(folder / f"images/series/IM{number:04}.dcm", bytes(128) + b"DICM" + bytes(64))


def pair(folder: Path) -> None:
    """One scan is a pair of .hdr and .img."""
    scans(folder)
    (folder / "images/c1.nii.gz").unlink()
    nib.save(nib.Nifti1Pair(volume(1)[0], AFFINE), folder / "images/c1.hdr")


def both_endings(folder: Path) -> None:
    scans(folder)
    nifti(folder / "images/c1.nii", volume(1)[0])


def scored(*changes: kit.Make) -> kit.Make:
    """Truth and predictions to score."""

    def make(folder: Path) -> None:
        for number in range(3):
            nifti(folder / f"truth/c{number}.nii.gz", volume(number)[1])
            nifti(folder / f"pred/c{number}.nii.gz", volume(number + 1)[1])
        for change in changes:
            change(folder)

    return make


def trained(
    make: kit.Make, *arguments: str, first: tuple[str, ...] = (), keys: tuple[str, ...] = ()
) -> tuple[kit.Make, list[str]]:
    """Scans, and code that trains on them, then predicts `arguments` and says SHAPE and affine of what came."""
    settings = [word for key in keys for word in ("--set", key)]
    code = f"""
import glob, nibabel as nib
if go("run", "r.toml", "-o", "o", *{settings!r}):
    sys.exit(9)
code = go("predict", "o/weights/last.safetensors", *{list(arguments)!r}, "-o", "out")
for path in sorted(glob.glob("out/*.nii*")):
    image = nib.load(path)
    print("GOT", path, image.shape, image.affine.tolist())
print("CODE", code)
sys.exit(code)
"""
    return make, ["python", kit.CALLS + code]


def analyze(folder: Path) -> None:
    """An Analyze volume with a .mat file, which holds its affine."""
    scans(folder)
    affine = np.array([[2.0, 0, 0, -11], [0, 2, 0, 7], [0, 0, 3, 5], [0, 0, 0, 1]])
    nib.save(nib.Spm2AnalyzeImage(volume(1)[0], affine), folder / "new/a.hdr")


def with_new(make: kit.Make) -> kit.Make:
    def build(folder: Path) -> None:
        (folder / "new").mkdir()
        make(folder)

    return build


def micrometers(folder: Path, kind: str = "new") -> None:
    scans(folder)
    scan = nib.Nifti1Image(volume(1)[0], np.diag([1000.0, 1000, 2000, 1]))
    scan.header.set_xyzt_units("micron")
    nib.save(scan, folder / kind / ("c1.nii.gz" if kind == "images" else "um.nii.gz"))


def sform_not_pixdim(folder: Path) -> None:
    """The matrix says half a millimeter, the header's sizes say one."""
    for kind, number in (("truth", 0), ("pred", 1)):
        scan = nib.Nifti1Image(volume(number)[1], np.diag([0.5, 0.5, 2, 1]))
        scan.set_qform(None, 0)
        scan.set_sform(np.diag([0.5, 0.5, 2, 1]), 1)
        scan.header["pixdim"][1:4] = 1
        nib.save(scan, folder / kind / "c0.nii.gz")


def half_a_millimeter(folder: Path, ended: object) -> str:
    """Whether the boundaries, a voxel apart, lie half a millimeter apart, if they are scored."""
    path = folder / "scores/metrics.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    found = [row["hd95"] for row in rows if row["case"] == "c0" and row["hd95"]]
    return "" if all(abs(float(value) - 0.5) < 1e-3 for value in found) else f"HD95 {found} by pixdim"


def rotated(degrees: float, shape: int = 512) -> kit.Make:
    """A matrix of 512 whose label is turned a little: the corners lie far from each other."""

    def make(folder: Path) -> None:
        scans(folder)
        angle = np.deg2rad(degrees)
        turned = np.eye(4)
        turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        nifti(
            folder / "images/c1.nii.gz",
            np.random.default_rng(1).integers(0, 99, (shape, shape, 3), np.int16),
            np.eye(4),
        )
        big = np.zeros((shape, shape, 3), np.uint8)
        big[50:90, 50:90] = 1
        nifti(folder / "labels/c1.nii.gz", big, turned)

    return make


def outlier(folder: Path) -> None:
    scans(folder)
    array = volume(1)[0].astype(np.float32)
    array[0, 0, 0] = 1e9
    nifti(folder / "images/c1.nii.gz", array)


def shifted(by: float) -> np.ndarray:
    out = AFFINE.copy()
    out[0, 3] += by
    return out


def stretched(folder: Path) -> None:
    """Labels that a header's scale makes 0.9999."""
    scans(folder)
    nifti(folder / "labels/c1.nii.gz", (volume(1)[1] * 0.9999).astype(np.float32))


NAN = np.where(np.indices(SHAPE)[0] == 0, np.nan, volume(1)[0]).astype(np.float32)
RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
EVALUATE = "medical evaluate truth pred -o scores"

CASES: list[Case] = [
    trial("scan-good", "nothing is wrong, `medical check`", scans, CHECK, "no problems"),
    trial("scan-good-core", "nothing is wrong, `check`", scans, CORE, READY),
    told(
        "scan-F1-all255",
        "labels 0 and 255, `medical check`",
        all_labels(255),
        CHECK,
        "255 is ignored|ignored|ignore",
        "tumor = 255|tumor",
    ),
    told("scan-F1-all255-core", "the same, `check`", all_labels(255), CORE, "= 255", "tumor"),
    told(
        "scan-F1-allempty",
        "all labels empty, `medical check`",
        all_labels(0),
        CHECK,
        "tumor",
        "no case|none|nowhere|no voxel|no labeled",
    ),
    told("scan-F1-allempty-core", "the same, `check`", all_labels(0), CORE, "warning|note", "tumor"),
    trial(
        "scan-F2-analyze-mat",
        "predict Analyze with a .mat",
        *trained(with_new(analyze), "new/a.hdr"),
        code=(0, 1),
        proof=lambda d, e: (
            ""
            if "CODE 1" in e.out or "[[2.0, 0.0, 0.0, -11.0], [0.0, 2.0, 0.0, 7.0]" in e.out
            else "the affine is another"
        ),
        limit=90,
    ),
    trial("scan-F3-resaved", "float labels re-saved with a uint8 header", resaved, CHECK, "no problems"),
    trial("scan-F3-0.9999", "labels of 0.9999", stretched, CHECK, "no problems"),
    told("scan-F4-nrrd", "a case in NRRD", others(".nrrd"), CHECK, "nrrd|cases, 4 with a label"),
    told("scan-F4-mha", "a case in MHA", others(".mha"), CHECK, "mha|cases, 4 with a label"),
    told("scan-F4-dicom", "a DICOM series", dicom, CHECK, "dcm|dicom|series"),
    told(
        "scan-F4-nrrd-only",
        "nothing but NRRD, `medical check`",
        others(".nrrd", only=True),
        CHECK,
        "nrrd|cases, 4 with a label",
    ),
    told(
        "scan-F4-nrrd-only-core",
        "the same, `check`",
        others(".nrrd", only=True),
        CORE,
        "nrrd|" + READY,
        never="masks option",
    ),
    refused(
        "scan-F4-zero-cases", "an empty folder", also(lambda d: [path.unlink() for path in [*d.glob("*/*.gz")]]), CHECK
    ),
    trial(
        "scan-F5-pair-predict",
        "predict a folder with a pair of .hdr and .img",
        *trained(pair, "images"),
        "5 of 5",
        limit=90,
    ),
    told(
        "scan-F6-um-check",
        "a case in micrometers, `medical check`",
        lambda d: micrometers(d, "images"),
        CHECK,
        "micro|units|1x1x2|1.0x1.0x2",
        never="1e+03",
    ),
    trial(
        "scan-F6-um-predict",
        "predict it with `spacing = [1, 1, 2]`",
        *trained(
            with_new(micrometers),
            "new",
            keys=('data.layout={name="scans", cache="cache", unlabeled="images", spacing=[1.0, 1.0, 2.0]}',),
        ),
        code=(0, 1),
        limit=90,
    ),
    trial(
        "scan-F7-pixdim",
        "sform of half a millimeter, pixdim 1, `evaluate`",
        scored(sform_not_pixdim),
        EVALUATE,
        code=(0, 1),
        proof=half_a_millimeter,
    ),
    refused("scan-F8-rotated", "a label turned by 0.05 degrees, matrix 512", rotated(0.05), CHECK, "c1"),
    told(
        "scan-F8-shift-0.005",
        "an origin off by 0.005 mm, voxels of 1 mm",
        label(affine=shifted(0.005)),
        CHECK,
        "no problems",
    ),
    refused("scan-F8-shift-1", "an origin off by 1 mm", label(affine=shifted(1.0)), CHECK, "c1"),
    told(
        "scan-F11-outlier",
        "a voxel of 1e9",
        outlier,
        CHECK,
        "1e+09|outlier",
        never="zscore evens that out case by case",
    ),
    told("scan-F11-zeros", "an image of zeros", image(np.zeros(SHAPE, np.int16)), CHECK, "constant|zero|equal"),
    told(
        "scan-F11-constant",
        "a constant image",
        image(np.full(SHAPE, 7, np.int16)),
        CHECK,
        "constant|one value|equal",
    ),
    told(
        "scan-F12-list",
        "`--cases` takes the field's list",
        scored(
            *(
                lambda d, n=n: (
                    (d / f"truth/ID{n}").mkdir(),
                    (d / f"truth/c{n}.nii.gz").rename(d / f"truth/ID{n}/mri_norm2.nii.gz"),
                    (d / f"pred/ID{n}").mkdir(),
                    (d / f"pred/c{n}.nii.gz").rename(d / f"pred/ID{n}/mri_norm2.nii.gz"),
                )
                for n in range(3)
            ),
            lambda d: write(d / "test.list", "ID0\nID1\nID2\n"),
        ),
        EVALUATE + " --cases test.list",
        "Dice",
        code=0,
    ),
    told(
        "scan-F13-nn-names",
        "images called `ID_0000`",
        also(*(lambda d, n=n: (d / f"images/c{n}.nii.gz").rename(d / f"images/c{n}_0000.nii.gz") for n in range(5))),
        CHECK,
        "image_suffix|nnunet",
    ),
    told("scan-F13-vector", "shape (H, W, D, 1, 1)", image(volume(1)[0][..., None, None]), CHECK, "no problems"),
    told("scan-F13-2d", "a 2-D NIfTI among volumes", image(volume(1)[0][..., 0]), CHECK, "c1"),
    refused("scan-F13-rgb", "an RGB NIfTI", image(RGB), CHECK, "c1", never="('R'"),
    refused("scan-F13-both-endings", "c1.nii and c1.nii.gz", both_endings, CHECK, "c1.nii", never="has no image"),
    refused("scan-F13-nan", "a border of NaN", image(NAN), CHECK, "c1", "nan"),
    refused(
        "scan-truncated",
        "a case cut in the middle",
        also(lambda d: (d / "images/c1.nii.gz").write_bytes((d / "images/c1.nii.gz").read_bytes()[:500])),
        CHECK,
        "c1",
    ),
    refused(
        "scan-not-gz", "text called .nii.gz", also(lambda d: write(d / "images/c1.nii.gz", "no scan")), CHECK, "c1"
    ),
    told(
        "scan-orphan-label",
        "a label without an image",
        also(lambda d: nifti(d / "labels/z9.nii.gz", volume(1)[1])),
        CHECK,
        "z9",
    ),
    told(
        "scan-orphan-label-core",
        "the same, `check`",
        also(lambda d: nifti(d / "labels/z9.nii.gz", volume(1)[1])),
        CORE,
        "z9",
    ),
    refused("scan-value-7", "a value that no class has", label(volume(1)[1] * np.uint8(7)), CHECK, "7", "c1"),
    refused(
        "scan-fractions", "a label of fractions", label((volume(1)[1] * 0.5).astype(np.float32)), CHECK, "c1", "0.5"
    ),
    refused(
        "scan-evaluate-shapes",
        "truth and prediction of other shapes",
        scored(lambda d: nifti(d / "pred/c0.nii.gz", np.zeros((9, 9, 9), np.uint8))),
        EVALUATE,
        "c0",
    ),
    trial("scan-evaluate-good", "nothing is wrong, `evaluate`", scored(), EVALUATE, "Dice"),
    refused(
        "scan-evaluate-missing",
        "a prediction is missing",
        scored(lambda d: (d / "pred/c1.nii.gz").unlink()),
        EVALUATE,
        "c1",
        code=(0, 1),
    ),
    trial("scan-empty-case", "one empty label", label(np.zeros(SHAPE, np.uint8)), CHECK, "c1"),
    left_out("scan-F9", "an index of packages: needs the network"),
    left_out("scan-F10", "minutes on a laptop: a time, no outcome"),
    left_out("scan-protocols", "ACDC, LA and BraTS: real data"),
]
