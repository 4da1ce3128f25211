"""What the quick commands import: not torch, which takes seconds, and the package alone nothing at all."""

import gc
import json
import sys

import pytest
from commandline import python

MODULES = "\nprint('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
COMMAND = f"""
import sys
from farcluss.cli import main
try:
    main()
except SystemExit as stop:
    print('code:', stop.code or 0){MODULES}
"""
COMMANDS = """
import contextlib, io, json, sys
from unittest.mock import patch
from farcluss.cli import main
for words in json.loads(sys.argv[1]):
    text = io.StringIO()
    with patch.object(sys, 'argv', ['farcluss', *words]):
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                main()
            except SystemExit as stop:
                print('code:', stop.code or 0)
    print(json.dumps([text.getvalue(), sorted({name.partition('.')[0] for name in sys.modules})]))
"""
TRAIN = f"""
import sys
import farcluss.training.engine{MODULES}
from farcluss import load_recipe, train
train(load_recipe(sys.argv[1], settings=["train.steps=1"]), sys.argv[2]){MODULES}
import farcluss.testing{MODULES}
"""
UNUSED = {"h5py", "segmentation_models_pytorch", "onnx", "tensorboard", "wandb"}
"""What belongs to other commands, networks and settings than those of a plain run."""
STRANGE = {"transformers", "deepspeed", "torchmetrics", "scipy", "sklearn", "pandas", "matplotlib", "cv2", "skimage"}
"""What the libraries in use would take in passing."""
HEAVY = {"torch", "timm", "kornia", "accelerate", "numpy", "PIL", "h5py", "safetensors"}


def all_loaded(result) -> list[set[str]]:
    """What was loaded each time that it was printed."""
    lines = result.out.splitlines()
    return [set(line.removeprefix("loaded:").split()) for line in lines if line.startswith("loaded:")]


def loaded(result) -> set[str]:
    return all_loaded(result)[-1]


def in_turn(commands: list[list[str]], cwd) -> list[tuple[str, set[str]]]:
    """What commands print, one after the other in one process, and what is loaded after each of them."""
    result = python(COMMANDS, json.dumps(commands), cwd=cwd)
    assert result.code == 0 and not result.err, result
    parts = [json.loads(line) for line in result.out.splitlines()]
    assert len(parts) == len(commands)
    return [(text, set(names)) for text, names in parts]


QUICK = [
    (["--help"], "farcluss run quickstart"),
    (["--version"], "farcluss 0."),
    (["run", "--help"], "--resume"),
    (["recipes", "list"], "quickstart"),
    (["recipes", "show", "quickstart"], "[data]"),
    (["plugins", "list"], "deeplabv3plus"),
    (["lists"], "voc-classic-92"),
]


def test_a_quick_command_imports_nothing_heavy(tmp_path):
    for (words, shown), (text, names) in zip(QUICK, in_turn([words for words, _ in QUICK], tmp_path), strict=True):
        assert shown in text and "code: 0" in text, (words, text)
        assert not names & HEAVY, words


BROKEN = [
    ("[data]\nlabelled = 'x'\n[train]\nsteps = 1", "unknown key data.labelled; did you mean 'labeled'?"),
    ("[train]\nsteps = 1\n[stages.weight]\nname = 'entropy'\nfom = 'x'", "stages.weight.fom: weight 'entropy'"),
    ("[train]\nsteps = 1\n[stages]\nweight = 'entropi'", "there is no weight plugin 'entropi'"),
    ("[train]\nsteps = 1\n[network]\nencodr = 'x'", "network.encodr: network 'deeplabv3plus'"),
    ("[train]\nsteps = 0", "train.steps: must be int >= 1"),
    ("[train", "is not valid TOML"),
]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_broken_recipe_is_refused_without_torch(command, tmp_path):
    for number, (text, _) in enumerate(BROKEN):
        (tmp_path / f"{number}.toml").write_text(text)
    found = in_turn([[command, f"{number}.toml"] for number in range(len(BROKEN))], tmp_path)
    for (_, said), (text, names) in zip(BROKEN, found, strict=True):
        assert said in text and "code: 1" in text, (said, text)
        assert "Traceback" not in text
        assert not names & HEAVY, said


def test_a_missing_recipe_is_refused_without_torch():
    result = python(COMMAND, "run", "quickstrt")
    assert "did you mean 'quickstart'?" in result.err and "code: 1" in result.out
    assert not loaded(result) & HEAVY


def test_the_package_alone_imports_nothing():
    names = loaded(python(f"import sys, farcluss{MODULES}"))
    assert "farcluss" in names
    assert not names & (HEAVY | {"pydantic", "click", "rich"})


@pytest.mark.parametrize("name", ["FarclussError", "load_recipe", "register"])
def test_light_names_of_the_package_stay_light(name):
    assert not loaded(python(f"import sys, farcluss\nfarcluss.{name}{MODULES}")) & HEAVY


def test_the_public_names():
    import farcluss

    assert set(farcluss.__all__) <= set(dir(farcluss))
    for name in farcluss.__all__:
        assert getattr(farcluss, name) is not None
    with pytest.raises(AttributeError, match=r"module 'farcluss' has no attribute 'trian'"):
        _ = farcluss.trian


def test_the_engine_imports_no_plugin_a_run_what_it_uses_and_the_testers_no_pytest(tiny_recipe, tmp_path):
    result = python(TRAIN, tiny_recipe, tmp_path / "run")
    assert result.code == 0, result.err
    engine, run, testing = all_loaded(result)
    assert {"torch", "accelerate"} <= engine
    assert not engine & (UNUSED | STRANGE | {"timm", "torchvision", "kornia"})
    assert {"torch", "timm", "kornia"} <= run
    assert not run & (UNUSED | STRANGE)
    assert "pytest" not in testing


def test_the_installed_distributions_are_read_once(tiny_recipe, monkeypatch, tmp_path):
    from farcluss import load_recipe
    from farcluss.learning import build
    from farcluss.plugins import registry

    calls, read = [], registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda: calls.append(0) or read())
    registry._installed.cache_clear()
    build.build_parts(load_recipe(tiny_recipe))
    assert len(calls) == 1
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # others may be installed there
    assert [*registry.find()]
    assert len(calls) == 2


def test_garbage_is_looked_for_again_when_a_run_is_built(tiny_recipe, monkeypatch, tmp_path):
    from farcluss import load_recipe
    from farcluss.training import engine

    seen = {}

    def watched(name, function):
        def call(*arguments):
            seen[name] = gc.isenabled()
            return function(*arguments)

        monkeypatch.setattr(engine, name, call)

    watched("build_parts", engine.build_parts)
    watched("one_step", engine.one_step)
    engine.train(load_recipe(tiny_recipe, settings=["train.steps=1"]), tmp_path / "run")
    assert seen == {"build_parts": False, "one_step": True}


@pytest.mark.parametrize("working", [True, False])
def test_the_collector_is_left_as_it_was(working):
    from farcluss.training.startup import gc_paused

    before = gc.isenabled()
    try:
        (gc.enable if working else gc.disable)()
        with pytest.raises(KeyError), gc_paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == working
    finally:
        (gc.enable if before else gc.disable)()
