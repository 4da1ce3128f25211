"""Command line, weights files and run directories."""

import json
from pathlib import Path

import numpy as np

from cases import kit
from cases.kit import (
    READY,
    Case,
    and_then,
    card,
    card_with,
    inference,
    left_out,
    pack,
    photos,
    picture,
    refused,
    run,
    save,
    tensors,
    told,
    trial,
    weights,
    write,
)

PREDICT = "predict w.safetensors images -o out"
EVAL = "eval w.safetensors"
EXPORT = "export w.safetensors -o x.safetensors"
API = """
import numpy as np, farcluss
model = farcluss.load("w.safetensors")
image = farcluss.read_image("images/i0.png") if hasattr(farcluss, "read_image") else None
from PIL import Image
whole = np.ascontiguousarray(np.asarray(Image.open("images/i0.png")).transpose(2, 0, 1))
right = model.predict(whole)
def agree(array):
    return float((model.predict(array) == right).mean())
try:
    print("SAME", agree({}))
except farcluss.errors.FarclussError as error:
    print("REFUSED", error)
"""


def api(name: str, what: str, array: str, *says: str) -> Case:
    """`model.predict` of another kind of array: as uint8 does, or refused."""
    return trial(name, what, weights, ["python", API.replace("{}", array)], *(says or ("SAME 1.0|REFUSED",)))


def nan(values: np.ndarray) -> None:
    values[:] = np.nan


def flip(values: np.ndarray) -> None:
    values.view(np.uint8)[2000:3000] = 0xFF


def tampered(
    name: str, what: str, make: kit.Make, *says: str, commands: str = "predict eval export", **more: object
) -> list[Case]:
    """A weights file that is not right, refused by several commands as the file that it is."""
    lines = {"predict": PREDICT, "eval": EVAL, "export": EXPORT, "overlay": PREDICT + " --overlay"}
    return [
        refused(f"{name}-{command}", what, make, lines[command], "w.safetensors", *says, **more)  # type: ignore[arg-type]
        for command in commands.split()
    ]


def checkpoint_is_dir(folder: Path) -> None:
    newest = sorted((run(folder) / "run/checkpoints").glob("*.pt"))[-1]
    for path in (folder / "run/checkpoints").glob("*"):
        path.unlink()
    newest.mkdir()


def lock_is_dir(folder: Path) -> None:
    lock = run(folder) / "run/lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()


def lock_is_link(folder: Path) -> None:
    write(run(folder) / "precious.txt", "words\n")
    (folder / "run/lock").unlink(missing_ok=True)
    (folder / "run/lock").symlink_to(folder / "precious.txt")


def manifest(**changes: object) -> kit.Make:
    def make(folder: Path) -> None:
        for path in (run(folder) / "run/checkpoints").glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def resumed(name: str, what: str, make: kit.Make, *says: str, arguments: str = "", **more: object) -> Case:
    return refused(
        name,
        what,
        make,
        f"run r.toml -o run --resume --set train.steps=4 --allow-changes {arguments}",
        *says,
        **{"changes": ("run",), "code": (0, 1), "never": ("Make room",)} | more,
    )  # type: ignore[arg-type]


def started(folder: Path) -> None:
    """A run that failed before its first checkpoint."""
    run(folder)
    for path in (folder / "run/checkpoints").glob("*"):
        path.unlink()


def based(base: str, there: bool = True, at: str = "base.toml") -> kit.Make:
    def make(folder: Path) -> None:
        photos(folder)
        write(folder / "in/b.toml", f"extends = {base}\n")
        if there:
            write(folder / "in" / at, kit.RECIPE)
        write(folder / "victim.toml", "# mine\n")

    return make


PLUGINS = {
    "exits": "import sys\nsys.exit(0)\n",
    "junk": "import farcluss\nfarcluss.register('network', 'x', 7)\n",
}
STAGE = """
import sys, farcluss
from farcluss.stages.base import *
from farcluss.plugins.registry import register
"""
ESC = "\\u001b[31mred"

CASES: list[Case] = [
    *tampered("cli-tamper-tensor-nan", "all weights NaN", tensors(nan)),
    *tampered("cli-weights-flip", "1000 bytes of the tensors are 0xff", tensors(flip)),
    *tampered("cli-tamper-std-zero", "`std = [0, 0, 0]` in the card", card_with(std=[0.0, 0.0, 0.0])),
    *tampered("cli-weights-nan-overlay", "all weights NaN, --overlay", tensors(nan), commands="overlay"),
    *tampered(
        "xtr-card-options-1e6",
        "head_channels 1000000",
        card(lambda c: c["options"].update(head_channels=1_000_000)),
        commands="predict",
        limit=20,
    ),
    *tampered(
        "xtr-card-options-1e7",
        "head_channels 10000000",
        card(lambda c: c["options"].update(head_channels=10_000_000)),
        commands="predict",
        limit=20,
    ),
    *tampered("cli-tamper-classes-empty", "no classes", card_with(classes=[]), commands="predict"),
    *tampered("cli-tamper-channels-0", "no channels", card_with(channels=0), commands="predict"),
    *tampered("cli-tamper-dim-neg", "dim -5", card_with(dim=-5), commands="predict"),
    *tampered("cli-tamper-palette-values", "palette of 300", card_with(palette=[[300, 0, 0]] * 3), commands="overlay"),
    *tampered("cli-tamper-palette-short", "palette of 1", card_with(palette=[[0, 0, 0]]), commands="overlay"),
    *tampered("cli-tamper-palette-empty", "palette of 0", card_with(palette=[]), commands="predict"),
    *tampered(
        "xtr-card-palette-long", "palette of 100000", card_with(palette=[[0, 0, 0]] * 100_000), commands="predict"
    ),
    *tampered(
        "cli-tamper-meta-nested",
        "JSON nested 100,000 deep",
        card(raw="[" * 100_000 + "]" * 100_000),
        commands="predict eval",
    ),
    *tampered("cli-tamper-mean-two", "mean of 2 for 3 channels", card_with(mean=[0.5, 0.5]), commands="predict eval"),
    *tampered("cli-tamper-mean-short", "mean of 1 for 3 channels", card_with(mean=[0.5]), commands="predict"),
    *tampered("cli-tamper-mean-nan", "mean 1e999", card_with(mean=[float("inf")] * 3), commands="predict"),
    *(
        case
        for name, window in {"0": [0, 0], "neg": [-8, -8], "3d": [8, 8, 8], "1d": [8]}.items()
        for case in tampered(
            f"cli-tamper-window-{name}", f"window {window}", inference(window=window), commands="predict"
        )
    ),
    *(
        case
        for name, scales in {"empty": [], "0": [0.0], "neg": [-1.0], "1e5": [1e5]}.items()
        for case in tampered(
            f"cli-tamper-scales-{name}", f"scales {scales}", inference(scales=scales), commands="predict", limit=20
        )
    ),
    *(
        case
        for name, stride in {"0": 0.0, "neg": -1.0, "nan": float("nan")}.items()
        for case in tampered(
            f"cli-tamper-stride-{name}",
            f"stride {stride}",
            inference(window=[16, 16], stride=stride),
            commands="predict",
            limit=20,
        )
    ),
    *tampered(
        "cli-tamper-recipe-list",
        "recipe.eval is a list",
        card(lambda c: c["recipe"].update(eval=[1])),
        commands="predict eval",
    ),
    *tampered(
        "cli-tamper-recipe-writer",
        "the writer is a number",
        card(lambda c: c["recipe"]["eval"].update(writer=7)),
        commands="predict",
    ),
    *tampered(
        "cli-tamper-network-smp",
        "an encoder that smp has not",
        card_with(network="smp", options={"architecture": "Unet", "encoder": "nope"}),
        commands="predict",
        proof=lambda d, e: "kilobytes of names" if len(e.text) > 2000 else "",
    ),
    api("cli-api-predict-nan", "`predict` of NaN", "np.full(whole.shape, np.nan, np.float32)", "REFUSED"),
    api("last-api-float32-255", "float32 0..255", "whole.astype(np.float32)"),
    api("last-api-int64", "int64 0..255", "whole.astype(np.int64)"),
    api("last-api-int16", "int16 0..255", "whole.astype(np.int16)"),
    api("last-api-uint16", "uint16 over the full range", "whole.astype(np.uint16) * 257"),
    api("last-api-float64", "float64 in [0, 1]", "whole / 255", "SAME 1.0"),
    api("last-api-float32", "float32 in [0, 1]", "(whole / 255).astype(np.float32)", "SAME 1.0"),
    api("last-api-float16", "float16 in [0, 1]", "(whole / 255).astype(np.float16)", "SAME 1.0|SAME 0.9"),
    api("cli-api-bool", "bool", "whole > 99", "REFUSED|SAME"),
    api("cli-api-empty", "no pixels", "whole[:, :0]", "REFUSED"),
    api("cli-api-big-endian", "big-endian floats", "(whole / 255).astype('>f4')", "SAME 1.0|REFUSED"),
    api("cli-api-hwc", "(H, W, 3)", "whole.transpose(1, 2, 0)", "REFUSED"),
    api("cli-api-pil", "a picture of PIL", "Image.open('images/i0.png')", "SAME 1.0|REFUSED"),
    refused(
        "cli-eval-set-network",
        "`--set eval.network=student` on teacher weights",
        weights,
        EVAL + " --set eval.network='\"student\"'",
        "eval.network",
    ),
    refused("xtr-eval-set-mean", "`--set data.mean` in eval", weights, EVAL + " --set data.mean=0.1", "data.mean"),
    refused(
        "xtr-set-two-lines",
        "two lines in `--set`",
        photos,
        ["farcluss", "check", "r.toml", "--set", "train.lr=1\ntrain.steps=99"],
        "--set",
        code=(1, 2),
    ),
    *(
        refused(
            f"cli-plugin-{name}",
            f"`--plugin p.py`: {name}",
            and_then(lambda d, name=name: write(d / "p.py", PLUGINS[name])),
            "check r.toml --plugin p.py --set network.name=x --set network.encoder=test_resnet",
            "p.py",
            never="this process",
        )
        for name in PLUGINS
    ),
    refused(
        "cli-entry-exit-check",
        "the same with `run`",
        and_then(lambda d: write(d / "p.py", PLUGINS["exits"])),
        "run r.toml -o o --plugin p.py",
        "p.py",
    ),
    trial(
        "xtr-eval-set-labeled-gone",
        "`eval` where the list of labeled images is gone",
        and_then(
            lambda d: write(d / "val.txt", "images/i0.png\nimages/i1.png\n"),
            card(lambda c: c["recipe"]["data"].update(labeled="gone.txt")),
            first=lambda d: None,
        ),
        EVAL + " --split val.txt",
        "IoU",
        code=(0, 1),
    ),
    trial(
        "cli-eval-split-all",
        "`--split 1`, all images with a mask",
        weights,
        EVAL + " --split 1",
        "IoU",
        never="no labeled images",
    ),
    refused(
        "xtr-pack-onto-recipe", "`pack -o r.toml --overwrite`", photos, "pack r.toml -o r.toml --overwrite", "r.toml"
    ),
    refused(
        "xtr-pack-onto-image",
        "`pack -o images/i0.png --overwrite`",
        photos,
        "pack r.toml -o images/i0.png --overwrite",
        "i0.png",
    ),
    told(
        "xtr-pack-onto-mask-link",
        "`pack` onto a link to a mask",
        and_then(lambda d: (d / "l.h5").symlink_to("masks/i0.png")),
        "pack r.toml -o l.h5 --overwrite",
        changes=("l.h5",),
    ),
    refused(
        "xtr-export-onnx-onto-source",
        "`export --onnx` onto its source",
        weights,
        EXPORT + " --onnx w.safetensors --overwrite",
        "w.safetensors",
    ),
    told(
        "xtr-export-onto-source-link",
        "`export -o` onto a link to its source",
        and_then(lambda d: (d / "l.safetensors").symlink_to("w.safetensors"), first=weights),
        "export w.safetensors -o l.safetensors --overwrite",
        changes=("l.safetensors",),
    ),
    refused(
        "cli-recipes-copy-extends-missing",
        "`recipes copy`, the base is missing",
        based('"gone.toml"', there=False),
        "recipes copy in/b.toml c.toml",
        "gone.toml",
        never="cannot be written",
        proof=lambda d, _: "half a copy stays" if (d / "c.toml").exists() else "",
    ),
    refused(
        "cli-recipes-copy-extends-traversal",
        '`extends = "../victim.toml"`',
        and_then(based('"../base.toml"', at="../base.toml")),
        "recipes copy in/b.toml out/deep/c.toml",
        "extends",
        proof=lambda d, _: "writes outside" if (d / "out/base.toml").exists() else "",
    ),
    refused(
        "cli-recipes-copy-badtoml",
        "`recipes copy` of bad TOML",
        and_then(lambda d: write(d / "b.toml", "a = = 3")),
        "recipes copy b.toml c.toml",
        "b.toml",
    ),
    refused(
        "cli-recipes-copy-extends-number",
        "`extends = 7`",
        based("7", there=False),
        "recipes copy in/b.toml c.toml",
        "extends",
    ),
    refused("cli-recipes-show-binary", "`recipes show` of a PNG", photos, "recipes show images/i0.png", "i0.png"),
    refused("cli-predict-same-folder", "predict onto the images", weights, "predict w.safetensors images -o images"),
    refused("cli-pack-exists", "pack onto a pack", pack, "pack r.toml -o p.h5", "p.h5"),
    refused("cli-eval-rundir", "`eval RUN`", run, "eval run", "weights/", never="os error"),
    refused(
        "cli-predict-weights-dir",
        "`predict RUN images`",
        run,
        "predict run images -o out",
        "weights/",
        never="os error",
    ),
    refused(
        "cli-predict-args-swapped",
        "`predict images W`",
        weights,
        "predict images w.safetensors -o out",
        "images",
        never="os error",
    ),
    resumed("cli-resume-ckpt-is-dir", "the checkpoint is a folder", checkpoint_is_dir, "step-", code=1),
    resumed("cli-resume-lock-dir", "`lock` is a folder", lock_is_dir, "lock", code=1),
    resumed(
        "cli-lock-link",
        "`lock` is a link to another file",
        lock_is_link,
        "lock",
        proof=lambda d, _: "" if (d / "precious.txt").read_text() else "empties it",
    ),
    resumed(
        "cli-resume-metrics-binary",
        "bytes in metrics.jsonl that are no UTF-8",
        and_then(lambda d: write(d / "run/metrics.jsonl", b"\xff\xfe{\n"), first=run),
        "metrics.jsonl|step 4",
    ),
    resumed(
        "cli-resume-manifest-progress-wrong",
        "text in a manifest's progress",
        manifest(progress="words", step="seven"),
        "checkpoint",
    ),
    resumed(
        "cli-resume-other-classes",
        "a checkpoint of 3 classes, a recipe of 4",
        run,
        "head|classif|shape|class",
        arguments='--set \'data.classes=["a","b","c","d"]\'',
        code=1,
    ),
    resumed(
        "cli-resume-other-network",
        "other head_channels",
        run,
        "decoder.fuse",
        arguments="--set network.head_channels=16",
        code=1,
    ),
    refused(
        "xtr-run-bad-then-good",
        "a run without a checkpoint, `run`",
        started,
        "run r.toml -o run",
        "checkpoint|--overwrite",
        never="Go on with it by --resume",
    ),
    refused(
        "cli-predict-long-name",
        "an image whose prediction has a name too long",
        and_then(lambda d: save(d / "images" / ("n" * 250 + ".png"), picture(1)), first=weights),
        PREDICT + " --overlay",
        "nnnn",
        "6 of 7",
        never="Choose another --output",
    ),
    refused(
        "cli-predict-target-is-dir",
        "a prediction's name is a folder",
        and_then(lambda d: (d / "out/i0.png").mkdir(parents=True), first=weights),
        PREDICT + " --overwrite",
        "i0.png",
    ),
    refused(
        "cli-run-output-long",
        "`-o` of 5000 letters",
        photos,
        ["farcluss", "run", "r.toml", "-o", "o" * 5000],
        proof=lambda d, e: "prints it whole" if len(e.text) > 1500 else "",
    ),
    refused(
        "cli-recipe-5000",
        "a recipe of 5000 letters",
        photos,
        ["farcluss", "check", "o" * 5000],
        proof=lambda d, e: "prints it whole" if len(e.text) > 1500 else "",
        code=(1, 2),
    ),
    refused("cli-run-output-nul", "NUL in `-o`", photos, ["farcluss", "run", "r.toml", "-o", "a\0b"], code=(1, 2)),
    trial(
        "xtr-recipe-classes-brackets",
        "classes in brackets",
        kit.recipe(classes='["road [paved]", "road [dirt]", "c"]'),
        "check r.toml",
        "road [paved]",
        "road [dirt]",
        READY,
    ),
    trial(
        "xtr-recipe-classes-markup",
        "a class `[/red]`",
        kit.recipe(classes='["[/red]", "[red]b[/red]", "c"]'),
        "check r.toml",
        "[/red]",
        "[red]b",
        READY,
    ),
    trial(
        "xtr-card-classes-esc-eval",
        "ESC in a class of the card",
        card_with(classes=["\x1b[31mred", "b", "c"]),
        EVAL,
        code=(0, 1),
        never="\x1b[31mred",
    ),
    *(
        refused(f"xtr-eval-{name}", f"`eval {words}`", weights, f"{EVAL} {words}", code=(1, 2))
        for name, words in {
            "set-data-3": "--data . --set data=3",
            "split-set-data-3": "--split val --set data=3",
            "set-window1": "--set eval.window=[16] --set eval.mode='\"sliding\"'",
            "scale-1e5": "--set eval.scales=[100000.0]",
            "scale-1e300": "--set eval.scales=[1e300]",
            "set-foo": "--set data.foo=1",
        }.items()
    ),
    refused(
        "xtr-set-table",
        "`--set '[train]'`",
        photos,
        ["farcluss", "check", "r.toml", "--set", "[train]\nsteps=3"],
        "--set",
        code=(1, 2),
    ),
    refused(
        "xtr-set-5000-digits",
        "an integer of 5000 digits",
        photos,
        ["farcluss", "check", "r.toml", "--set", "train.steps=" + "9" * 5000],
        "train.steps|--set",
        code=(1, 2),
    ),
    trial(
        "last-run-name-empty",
        "`--set name=`",
        photos,
        "run r.toml --set 'name=\"\"'",
        code=(0, 1, 2),
        proof=lambda d, _: "runs into runs/ itself" if (d / "runs/recipe.toml").exists() else "",
    ),
    told("cli-predict-dash", "`predict -x.png`", weights, "predict w.safetensors -x.png", code=(1, 2)),
    left_out(
        "cli-entry-command-noncmd-call, cli-ep-garbage", "need a broken distribution installed beside the one on trial"
    ),
    left_out("xtr-stage-exit", "a stage that exits: as cli-plugin-exits, and needs an installed plugin"),
]
