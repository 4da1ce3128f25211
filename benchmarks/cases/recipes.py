"""Recipes, and what `check` promises."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cases import kit
from cases.kit import (
    READY,
    RECIPE,
    Case,
    and_then,
    changed,
    left_out,
    masks,
    photos,
    recipe,
    refused,
    told,
    trial,
    write,
)

CHECK, RUN = "check r.toml", "run r.toml -o o"
ONE = "{ a = [0, 1, 2] }"


def both(name: str, what: str, make: kit.Make, *says: str, **more: object) -> list[Case]:
    """`check` must refuse it, and `run` must not end well."""
    never = ("(best)", READY)
    return [
        refused(f"{name}-check", what, make, CHECK, *says, **more),  # type: ignore[arg-type]
        refused(f"{name}-run", what, make, RUN, *says, **{"never": never} | more),  # type: ignore[arg-type]
    ]


def pretrained(content: object, name: str = "p.pth") -> kit.Make:
    """Photos, and a file of pretrained weights."""

    def make(folder: Path) -> None:
        photos(folder, pretrained=f'"{name}"')
        if isinstance(content, bytes):
            write(folder / name, content)
        else:
            import timm

            state = timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict()
            state = {key: content(value) for key, value in state.items()}  # type: ignore[operator]
            save_file(state, folder / name) if name.endswith(".safetensors") else torch.save(state, folder / name)

    return make


def checkpoint_of_others(folder: Path) -> None:
    """A `best.pth` as UniMatch writes it: a NumPy scalar among the tensors."""
    import timm

    photos(folder, pretrained='"best.pth"')
    state = timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict()
    torch.save(
        {
            "model": {f"module.backbone.{key}": value for key, value in state.items()},
            "epoch": 3,
            "previous_best": np.float64(77.5),
        },
        folder / "best.pth",
    )


def option(name: str, what: str, settings: str, *says: str, command: str = CHECK, **more: object) -> Case:
    return refused(
        name, what, photos, f"{command} {' '.join(f'--set {each!r}' for each in settings.split(' & '))}", *says, **more
    )  # type: ignore[arg-type]


def empty(folder: Path) -> None:
    masks(np.zeros((32, 32), np.uint8), classes='["a", "b"]')(folder)


CASES: list[Case] = [
    *both("last-one-class", "`classes = {a = [0, 1, 2]}`", recipe(classes=ONE), "class"),
    *both(
        "rec-pre-all-nan",
        "a pretrained file, all NaN",
        pretrained(lambda v: v * float("nan") if v.is_floating_point() else v, "p.safetensors"),
        "p.safetensors|finite|nan",
    ),
    option("last-check-lr-1e30", "`train.lr = 1e30`", "train.lr=1e30", "lr|finite|nan"),
    option("rec-run-lr-1e30", "the same, `run`", "train.lr=1e30", "lr|finite|nan", command=RUN, never="(best)"),
    *(
        option(f"rec-data.{key}-{value}", f"`data.{key} = {value}`", f"data.{key}={value}", key + "|finite|nan")
        for key, value in [("mean", "1e30"), ("std", "1e-30"), ("std", "1e-45")]
    ),
    *(
        option(
            f"rec-run-{key}",
            f"`data.{key} = {value}`, `run`",
            f"data.{key}={value}",
            key + "|finite|nan",
            command=RUN,
            never="(best)",
        )
        for key, value in [("mean", "1e30"), ("std", "1e-30")]
    ),
    option(
        "last-window-3d", "`eval.window` of three sides", 'eval.window=[32,32,32] & eval.mode="sliding"', "eval.window"
    ),
    option(
        "last-window-3d-run",
        "the same, `run`",
        'eval.window=[32,32,32] & eval.mode="sliding"',
        "eval.window",
        command=RUN,
    ),
    option("last-window-empty", "`eval.window = []`", 'eval.window=[] & eval.mode="sliding"', "eval.window"),
    option("rec-train.trackers", "a tracker that is not installed", 'train.trackers=["wandb"]', "wandb"),
    told(
        "rec-warmup-longer-check",
        "`loss.warmup_steps` beyond the run",
        photos,
        CHECK + " --set loss.warmup_steps=50",
        "warmup",
    ),
    told("rec-run-warmup-longer", "the same, `run`", photos, RUN + " --set loss.warmup_steps=50", "warmup"),
    told(
        "rec-class-none",
        "a class that no mask has",
        recipe(classes='["a", "b", "c", "d"]'),
        CHECK,
        "warning|note",
        "d ",
    ),
    told("rec-all-empty", "all masks are background", empty, CHECK, "warning|note|only", "b"),
    trial(
        "rec-bom",
        "a recipe with a BOM",
        and_then(lambda d: write(d / "r.toml", b"\xef\xbb\xbf" + RECIPE.encode())),
        CHECK,
        code=(0, 1),
        never="Invalid statement",
    ),
    refused(
        "rec-utf16",
        "a recipe in UTF-16",
        and_then(lambda d: write(d / "r.toml", RECIPE.encode("utf-16"))),
        CHECK,
        "UTF-8",
    ),
    refused(
        "rec-data.classes-20",
        "a value beyond 64 bits",
        recipe(classes="{ a = 99999999999999999999, b = 1 }"),
        CHECK,
        "classes",
    ),
    option(
        "rec-data.ignore_index-7",
        "`ignore_index` beyond 64 bits",
        "data.ignore_index=99999999999999999999",
        "ignore_index",
    ),
    option(
        "rec-stages.augment-8",
        "`photometric`, degrees 1e9",
        'stages.augment={name="photometric", degrees=1e9}',
        "degrees",
    ),
    option(
        "rec-network.encoder-7",
        "an unknown tag of weights",
        'network.encoder="resnet50.nonsense"',
        "nonsense",
        never="pyramid of maps",
    ),
    option(
        "rec-network-12",
        "an unknown option of smp",
        'network={name="smp", architecture="Unet", encoder="resnet18", pretrained=false, foo=1}',
        "foo",
    ),
    option(
        "rec-network-11",
        "an unknown encoder of smp",
        'network={name="smp", architecture="Unet", encoder="nope", pretrained=false}',
        "nope",
        proof=lambda d, e: "kilobytes of names" if len(e.text) > 2500 else "",
    ),
    *(
        refused(
            f"rec-pre-{name}",
            f"a `.pth` that is {what}",
            pretrained(content),
            CHECK,
            "p.pth",
            "truncated|checkpoint|damaged",
            never=("KeyError", "EOFError", "Errno", "enforce fail"),
        )
        for name, what, content in [
            ("text", "text", b"hello, world\n" * 9),
            ("empty", "empty", b""),
            ("trunc", "cut", b"PK\x03\x04" + bytes(200)),
            ("zip", "a plain zip", b"PK\x05\x06" + bytes(18)),
        ]
    ),
    refused("rec-pre-int8", "tensors of int8", pretrained(lambda v: v.to(torch.int8)), CHECK, "int8|integer"),
    trial("rec-pre-unimatch", "a `best.pth` with a NumPy scalar", checkpoint_of_others, CHECK, READY),
    option(
        "rec-run-crop-1",
        "crops of 5 pixels, photometric",
        'data.crop=5 & stages.augment="photometric"',
        "data.crop|crop",
        never="kernel_size",
    ),
    refused(
        "rec-deep-brackets",
        "5000 nested brackets",
        and_then(lambda d: write(d / "r.toml", "x = " + "[" * 5000 + "]" * 5000)),
        CHECK,
        "r.toml",
    ),
    refused(
        "rec-deep-tables",
        "5000 nested inline tables",
        and_then(lambda d: write(d / "r.toml", "x = " + "{a=" * 5000 + "1" + "}" * 5000)),
        CHECK,
        "r.toml",
    ),
    refused(
        "rec-deep-dots",
        "a key of 5000 dots",
        and_then(lambda d: write(d / "r.toml", ".".join(["a"] * 5000) + " = 1")),
        CHECK,
        "r.toml",
    ),
    refused(
        "rec-huge-int-5000-digits",
        "an integer of 5000 digits",
        and_then(lambda d: write(d / "r.toml", "[train]\nsteps = " + "9" * 5000)),
        CHECK,
        "r.toml",
    ),
    option("rec-data.crop-11", "a crop of 10^30", f"data.crop={10**30}", "crop"),
    option("rec-data.scale-4", "`data.scale = [1e-9, 1e-9]`", "data.scale=[1e-9,1e-9]", "scale"),
    option(
        "rec-train.batch-3",
        "a batch of a million",
        "train.batch=1000000",
        "batch",
        limit=15,
        around={"limits": {"RLIMIT_AS": 12 * 2**30}},
    ),
    option("rec-eval.stride-0", "`eval.stride = 0`", "eval.stride=0", "stride"),
    option("rec-train.lr-true", "`train.lr = true`", "train.lr=true", "train.lr"),
    option("rec-train.steps-true", "`train.steps = true`", "train.steps=true", "train.steps"),
    refused("rec-classes-empty-name", "a class without a name", recipe(classes='["", "b", "c"]'), CHECK, "classes"),
    refused("rec-classes-nul", "NUL in a class", recipe(classes='["a\\u0000", "b", "c"]'), CHECK, "classes"),
    refused(
        "rec-extends-name",
        '`extends = "quickstart"`',
        and_then(lambda d: write(d / "r.toml", 'extends = "quickstart"\n')),
        CHECK,
        "quickstart",
    ),
    refused(
        "rec-pre-true-offline",
        "`pretrained = true` offline",
        recipe(pretrained="true"),
        CHECK,
        "pretrained",
        code=(0, 1),
        limit=60,
    ),
    refused(
        "rec-unknown-key",
        "an unknown key",
        and_then(lambda d: write(d / "r.toml", changed(RECIPE, clases="3"))),
        CHECK,
        "clases",
        "classes",
    ),
    refused(
        "rec-many-errors",
        "four errors at once",
        photos,
        CHECK + " --set train.steps=-1 --set data.crop=0 --set foo=1 --set loss.bar=2",
        "train.steps",
        "data.crop",
        "foo",
        "bar",
    ),
    refused(
        "rec-extends-loop",
        "recipes that extend each other",
        and_then(
            lambda d: write(d / "r.toml", 'extends = "s.toml"'), lambda d: write(d / "s.toml", 'extends = "r.toml"')
        ),
        CHECK,
        "extends",
    ),
    refused(
        "rec-255-classes",
        "255 classes",
        recipe(classes="[" + ", ".join(f'"c{n}"' for n in range(255)) + "]"),
        CHECK,
        "class",
    ),
    left_out("last-nan-weights-6", "50 steps; tests of the run have it"),
    left_out("rec-pre-evil", "pickles with code: tests/networks has them"),
]
