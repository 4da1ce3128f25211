"""What the quick commands import: not torch, which takes seconds, and the package alone nothing at all."""

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
HEAVY = {"torch", "timm", "kornia", "accelerate", "numpy", "PIL", "h5py", "safetensors"}


def loaded(result) -> set[str]:
    return set(result.out.splitlines()[-1].removeprefix("loaded:").split())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], "farcluss run quickstart"),
        (["--version"], "farcluss 0."),
        (["run", "--help"], "--resume"),
        (["recipes", "list"], "quickstart"),
        (["recipes", "show", "quickstart"], "[data]"),
        (["plugins", "list"], "deeplabv3plus"),
        (["lists"], "voc-classic-92"),
    ],
)
def test_a_quick_command_imports_nothing_heavy(words, shown):
    result = python(COMMAND, *words)
    assert shown in result.out and "code: 0" in result.out, result
    assert not loaded(result) & HEAVY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data]\nlabelled = 'x'\n[train]\nsteps = 1", "unknown key data.labelled; did you mean 'labeled'?"),
        ("[train]\nsteps = 1\n[stages.weight]\nname = 'entropy'\nfom = 'x'", "stages.weight.fom: weight 'entropy'"),
        ("[train]\nsteps = 1\n[stages]\nweight = 'entropi'", "there is no weight plugin 'entropi'"),
        ("[train]\nsteps = 1\n[network]\nencodr = 'x'", "network.encodr: network 'deeplabv3plus'"),
        ("[train]\nsteps = 0", "train.steps: must be int >= 1"),
        ("[train", "is not valid TOML"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_broken_recipe_is_refused_without_torch(command, text, said, tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    result = python(COMMAND, command, path)
    assert said in result.err and "code: 1" in result.out, result
    assert "Traceback" not in result.err
    assert not loaded(result) & HEAVY


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
