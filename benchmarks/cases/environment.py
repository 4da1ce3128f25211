"""Disks, rights, streams, terminals and limits."""

import os
from pathlib import Path

import numpy as np

from cases import kit
from cases.kit import READY, Case, and_then, left_out, photos, picture, refused, run, save, told, trial, weights, write

NOBODY = {"uid": 65534}
PREDICT = "predict w.safetensors images -o out"

LONG_TMPDIR = f"""
import os
os.environ["TMPDIR"] = os.path.abspath("t" * 150)
{kit.CALLS}
sys.exit(go("run", "r.toml", "-o", "o"))
"""
LITTLE_MEMORY = """
import resource
from pathlib import Path
size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
sys.exit(go("predict", "w.safetensors", "images", "-o", "out"))
"""


def theirs(*makes: kit.Make, first: kit.Make = photos) -> kit.Make:
    """Files that belong to the user that a case runs as."""

    def make(folder: Path) -> None:
        for each in (first, *makes):
            each(folder)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, 65534, 65534, follow_symlinks=False)

    return make


def closed(name: str) -> kit.Make:
    """Takes all rights from a file or folder."""
    return lambda folder: (folder / name).chmod(0)


def below(kind: str) -> kit.Make:
    """A further file in a folder of its own."""

    def make(folder: Path) -> None:
        if kind == "masks":
            save(folder / "images/sub/y.png", picture(8))
        save(folder / f"{kind}/sub/y.png", picture(8) if kind == "images" else kit.labels(8))

    return make


def torn(folder: Path, ended: object) -> str:
    """Names of predictions that cannot be read."""
    bad = []
    for path in (folder / "out").rglob("*"):
        try:
            if path.suffix == ".npy":
                np.load(path)
            elif path.suffix == ".png":
                kit.Image.open(path).load()
        except (OSError, ValueError, SyntaxError):
            bad.append(path.name)
    return f"torn: {', '.join(sorted(bad)[:4])}" if bad else ""


def open_to_all(folder: Path, ended: object) -> str:
    """Files that a umask of 077 has not kept."""
    loose = [
        path.name
        for path in [*folder.glob("o/**/*"), *folder.glob("x.*")]
        if path.is_file() and path.stat().st_mode & 0o077
    ]
    return f"readable by others: {', '.join(sorted(loose)[:4])}" if loose else ""


def not_group(folder: Path, ended: object) -> str:
    return "" if (folder / "x.safetensors").stat().st_mode & 0o020 else "not writable by the group"


def lost(name: str) -> kit.Proof:
    return lambda folder, ended: "" if (folder / name).exists() else f"{name} is not there"


CASES: list[Case] = [
    refused(
        "env-full-pred-probs",
        "no file may grow beyond 4096 bytes (a full disk)",
        weights,
        PREDICT + " --probs --overlay",
        "large|space|full",
        proof=torn,
        never="None.",
        around={"limits": {"RLIMIT_FSIZE": 4096}},
    ),
    refused(
        "env-full-copy",
        "`recipes copy` with no room",
        photos,
        "recipes copy camvid_1_8 q.toml",
        "q.toml|large|space",
        around={"limits": {"RLIMIT_FSIZE": 100}},
        proof=lambda d, _: "half a copy stays" if (d / "q.toml").exists() else "",
    ),
    refused(
        "env-full-new",
        "`plugins new` with no room",
        photos,
        "plugins new farcluss-nuc",
        "farcluss-nuc|large|space",
        around={"limits": {"RLIMIT_FSIZE": 300}},
        proof=lambda d, _: "half a package stays" if (d / "farcluss-nuc").exists() else "",
    ),
    refused(
        "env-full-run",
        "`run` with no room",
        photos,
        "run r.toml -o o",
        "room|space|large",
        around={"limits": {"RLIMIT_FSIZE": 100_000}},
    ),
    refused(
        "env-full-export",
        "`export` with no room",
        weights,
        "export w.safetensors -o x.safetensors",
        "x.safetensors",
        around={"limits": {"RLIMIT_FSIZE": 100_000}},
        proof=lambda d, _: "torn" if (d / "x.safetensors").exists() else "",
    ),
    refused(
        "env-full-pack",
        "`pack` with no room",
        photos,
        "pack r.toml -o p.h5",
        "p.h5|room|space|large",
        around={"limits": {"RLIMIT_FSIZE": 4096}},
        proof=lambda d, _: "torn" if (d / "p.h5").exists() else "",
    ),
    *(
        refused(
            f"nob-{name}",
            f"no rights on {what}",
            theirs(*makes, first=first),
            command,
            "Permission denied|rights|not be read|cannot be read",
            around=NOBODY,
            **more,
        )
        for name, what, makes, first, command, more in [
            (
                "folder-000",
                "a sub-folder of images",
                (below("images"), closed("images/sub")),
                photos,
                "check r.toml",
                {},
            ),
            (
                "folder-000-pred",
                "a sub-folder of images",
                (below("images"), closed("images/sub")),
                weights,
                PREDICT,
                {},
            ),
            ("masksub-000", "a sub-folder of masks", (below("masks"), closed("masks/sub")), photos, "check r.toml", {}),
            ("root-000", "all images", (closed("images"),), photos, "check r.toml", {}),
            ("masks-000", "all masks", (closed("masks"),), photos, "check r.toml", {}),
            ("weights-000", "the weights", (closed("w.safetensors"),), weights, PREDICT, {"never": "There is no"}),
            ("image-000-pred", "an image", (closed("images/i1.png"),), weights, PREDICT, {"never": "damaged"}),
            (
                "pretrained-000",
                "the pretrained file",
                (lambda d: write(d / "p.pth", "x"), closed("p.pth")),
                photos,
                "check r.toml --set 'network.pretrained=\"p.pth\"'",
                {"never": "FileNotFoundError"},
            ),
        ]
    ),
    refused(
        "nob-resume-readonly",
        "a run that may not be written",
        theirs(lambda d: (d / "run").chmod(0o555), lambda d: (d / "run/checkpoints").chmod(0o555), first=run),
        "run r.toml -o run --resume --set train.steps=4 --allow-changes",
        "Permission denied|rights",
        never="Make room",
        around=NOBODY,
        changes=("run",),
    ),
    trial(
        "nob-umask-077-run", "umask 077, `run`", photos, "run r.toml -o o", proof=open_to_all, around={"umask": "077"}
    ),
    trial(
        "nob-umask-077-export",
        "umask 077, `export`",
        weights,
        "export w.safetensors -o x.safetensors",
        proof=open_to_all,
        around={"umask": "077"},
    ),
    trial(
        "nob-umask-002-export",
        "umask 002, `export`",
        weights,
        "export w.safetensors -o x.safetensors",
        proof=not_group,
        around={"umask": "002"},
    ),
    told(
        "env-tmpdir-long-run",
        "TMPDIR of 150 letters, `data.workers = 2`",
        and_then(
            lambda d: (d / ("t" * 150)).mkdir(), lambda d: write(d / "r.toml", kit.changed(kit.RECIPE, workers="2"))
        ),
        ["python", LONG_TMPDIR],
        "TMPDIR|best",
        limit=60,
    ),
    trial(
        "env-true-sigpipe-run",
        "`run | true`",
        photos,
        "run r.toml -o o",
        proof=lost("o/weights/last.safetensors"),
        around={"stdout": "gone"},
        code=(0, 120),
    ),
    trial(
        "env-true-sigpipe-pred",
        "`predict | true`",
        weights,
        PREDICT,
        proof=lost("out/i5.png"),
        around={"stdout": "gone"},
        code=(0, 120),
    ),
    told(
        "env-stdout-full",
        "`check > /dev/full`",
        photos,
        "check r.toml",
        "standard output|stdout",
        around={"stdout": "/dev/full"},
        code=(0, 1, 120),
    ),
    trial(
        "env-columns-20-eval",
        "COLUMNS=20, `eval`",
        weights,
        "eval w.safetensors",
        "IoU",
        never="…",
        around={"env": {"COLUMNS": "20"}},
    ),
    trial("env-columns-0", "COLUMNS=0, `check`", photos, "check r.toml", "labeled", around={"env": {"COLUMNS": "0"}}),
    trial(
        "env-ioenc-ascii",
        "an ASCII terminal and a class `größe`",
        kit.recipe(classes='["größe", "b", "c"]'),
        "check r.toml",
        READY,
        around={"encoding": "ascii"},
    ),
    trial(
        "env-lock-link",
        "`o/lock` is a link to a file elsewhere",
        and_then(
            lambda d: write(d / "mine.txt", "words"),
            lambda d: (d / "o").mkdir(),
            lambda d: (d / "o/lock").symlink_to(d / "mine.txt"),
        ),
        "run r.toml -o o",
        code=(0, 1),
        changes=("o/",),
    ),
    *(
        refused(
            f"env-{name}",
            f"`o/{place}` is {what}",
            and_then(
                lambda d, place=place, what=what: (
                    (d / "o" / place).mkdir(parents=True) if what == "a folder" else write(d / "o" / place, "x")
                )
            ),
            "run r.toml -o o --overwrite",
            place,
            code=(0, 1),
            changes=("o/",),
            never=(),
        )
        for name, place, what in [
            ("lock-dir", "lock", "a folder"),
            ("metrics-dir", "metrics.jsonl", "a folder"),
            ("recipe-dir", "recipe.toml", "a folder"),
            ("weights-file", "weights", "a file"),
        ]
    ),
    refused(
        "env-rank-error",
        "a stale RANK=3",
        photos,
        "check nope.toml",
        "nope.toml",
        around={"env": {"RANK": "3"}},
        code=(1, 2),
    ),
    refused(
        "xtr-mem-mix",
        "an image of 9000 x 9000 before six good ones, 700 MiB more of memory",
        and_then(lambda d: save(d / "images/a.npy", np.zeros((9000, 9000, 3), np.uint8)), first=weights),
        ["python", kit.CALLS + LITTLE_MEMORY],
        "a.npy",
        "6 of 7",
        limit=90,
    ),
    trial(
        "env-notty-dumb",
        "TERM=dumb, NO_COLOR, HOME unset",
        photos,
        "check r.toml",
        READY,
        around={"env": {"TERM": "dumb", "NO_COLOR": "1", "HOME": None}},
    ),
    left_out("env-lang-c-unicode-run", "the locale is fixed when Python starts; needs a process of its own"),
    left_out("env-deleted-cwd", "dies in a library before farcluss starts"),
    left_out("env-two-*", "two processes at one moment; tests/runs/ has them"),
]
