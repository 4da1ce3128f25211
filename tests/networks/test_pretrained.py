"""Pretrained weights: what fits, what is said when it does not, and what is never run."""

import os
import pickle
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from farcluss.errors import WeightsError
from farcluss.networks import pretrained
from farcluss.networks.deeplabv3plus import build_encoder, deeplabv3plus
from farcluss.networks.pretrained import adapt_channels, load_checkpoint, load_pretrained, read_weights


def encoder(name="test_resnet", channels=3, stride=32):
    return build_encoder(name, channels, stride)


def timm_state(name="test_resnet", **options):
    """The whole network's weights as timm publishes them, with norm statistics that are not the initial ones."""
    torch.manual_seed(7)
    state = timm.create_model(name, **options).state_dict()
    return {k: torch.rand_like(v) + 0.5 if "running" in k else v for k, v in state.items()}


def saved(path, content):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return str(path)


def deep_stem_state(blocks=(3, 4, 6, 3), stem=(64, 64, 128)):
    """Names and shapes of the deep-stem bottleneck ResNet files of the field, from their description alone."""
    shapes = {}

    def conv(name, out, inside, size):
        shapes[f"{name}.weight"] = (out, inside, size, size)

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    conv("conv1.0", stem[0], 3, 3)
    norm("conv1.1", stem[0])
    conv("conv1.3", stem[1], stem[0], 3)
    norm("conv1.4", stem[1])
    conv("conv1.6", stem[2], stem[1], 3)
    norm("bn1", stem[2])
    inside = stem[2]
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            at = f"layer{stage + 1}.{block}"
            for index, (out, into, size) in enumerate([(width, inside, 1), (width, width, 3), (4 * width, width, 1)]):
                conv(f"{at}.conv{index + 1}", out, into, size)
                norm(f"{at}.bn{index + 1}", out)
            if block == 0:
                conv(f"{at}.downsample.0", 4 * width, inside, 1)
                norm(f"{at}.downsample.1", 4 * width)
            inside = 4 * width
    shapes["fc.weight"], shapes["fc.bias"] = (1000, inside), (1000,)
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_file_of_timm_fits_whole(tmp_path, suffix):
    state = timm_state()
    target = encoder()
    report = load_pretrained(target, "test_resnet", saved(tmp_path / f"weights{suffix}", state))
    for name, tensor in target.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, state[name]), name
    assert report.matched == report.total == sum("num_batches" not in k for k in target.state_dict())
    assert (report.missing, report.mismatched, report.adapted) == ((), (), "")
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    expected = (
        f"encoder test_resnet: {report.total} of {report.total} tensors from {tmp_path}/weights{suffix}; ignored fc."
    )
    assert report.summary().startswith(expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"module.backbone.{k}": v for k, v in s.items()}},
        lambda s: {f"encoder.{k}": v for k, v in s.items()} | {"decode_head.conv.weight": torch.ones(3)},
        lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
    ],
)
def test_wrappings_of_checkpoints_are_opened(tmp_path, wrap):
    state = timm_state()
    target = encoder()
    report = load_pretrained(target, "test_resnet", saved(tmp_path / "w.pth", wrap(state)))
    assert report.matched == report.total
    assert torch.equal(target.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_flattened_names_are_found(tmp_path):
    state = timm_state("test_convnext")
    target = encoder("test_convnext")
    assert any(name not in state for name in target.state_dict())  # else this proves nothing
    report = load_pretrained(target, "test_convnext", saved(tmp_path / "w.safetensors", state))
    assert report.matched == report.total
    images = torch.randn(1, 3, 64, 64)
    whole = timm.create_model("test_convnext")
    whole.load_state_dict(state)
    torch.testing.assert_close(
        target.eval()(images)[-1], whole.eval().forward_intermediates(images, intermediates_only=True)[-1]
    )


def test_a_file_of_torchvision_gives_torchvisions_features(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    target = encoder("resnet18").eval()
    load_pretrained(target, "resnet18", saved(tmp_path / "w.pth", model.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    features = torch.nn.Sequential(*list(model.children())[:-2])(images)
    torch.testing.assert_close(target(images)[-1], features)


@pytest.mark.parametrize("style", ["field", "mmsegmentation"])
def test_deep_stem_files_of_the_field_fit(tmp_path, style):
    state = deep_stem_state()
    if style == "mmsegmentation":
        stems = {"conv1.0": "stem.0", "conv1.1": "stem.1", "conv1.3": "stem.3", "conv1.4": "stem.4",
                 "conv1.6": "stem.6", "bn1": "stem.7"}  # fmt: skip
        part = {k: k.rpartition(".") for k in state}
        given = {f"backbone.{stems.get(part[k][0], part[k][0])}.{part[k][2]}": v for k, v in state.items()}
    else:
        given = state
    target = encoder("resnet50s")
    report = load_pretrained(target, "resnet50s", saved(tmp_path / "w.pth", {"state_dict": given}))
    assert report.matched == report.total == len(state) - 2
    assert all(torch.equal(target.state_dict()[k], v) for k, v in state.items() if not k.startswith("fc"))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_is_adapted(tmp_path, channels):
    state = timm_state()
    given = state["conv1.0.weight"].double().numpy()
    if channels == 1:
        expected = given[:, :1] + given[:, 1:2] + given[:, 2:3]
    else:
        expected = given[:, [0, 1, 2, 0, 1][:channels]] * 3 / channels
    network = deeplabv3plus(channels, 2, 0, saved(tmp_path / "w.pth", state), encoder="test_resnet")
    found = network.encoder.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
    assert f"first convolution adapted from 3 to {channels} channels" in network.pretrained_report


@pytest.mark.parametrize("channels", [1, 3, 6, 9])
def test_adaptation_keeps_the_response_to_gray(channels):
    weight = torch.randn(4, 3, 3, 3)
    expected = weight.sum((1, 2, 3))
    torch.testing.assert_close(adapt_channels(weight, channels).sum((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)


def refused(target, name, path):
    """The error's text; it has at most three lines and leaves the encoder as it was."""
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_pretrained(target, name, path)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_a_partial_file_is_refused_with_names(tmp_path):
    state = {k: v for k, v in timm_state().items() if not k.startswith("layer2.0.conv")}
    state["layer1.0.bn1.weight"] = torch.ones(7)
    state["stranger.weight"] = torch.ones(1)
    text = refused(encoder(), "test_resnet", saved(tmp_path / "w.pth", state))
    total = sum("num_batches" not in k for k in encoder().state_dict())
    gone = sum(k.startswith("layer2.0.conv") for k in encoder().state_dict())
    assert f"fits {total - gone - 1} of {total} tensors of encoder test_resnet" in text
    assert "Missing: layer2.0.conv1.weight" in text
    assert "layer1.0.bn1.weight (7,) instead of (32,)" in text
    assert "not in the encoder: fc.weight, fc.bias, stranger.weight" in text


def test_a_plain_stem_does_not_pass_for_a_deep_one(tmp_path):
    text = refused(encoder("resnet18d"), "resnet18d", saved(tmp_path / "w.pth", timm_state("resnet18")))
    assert "Missing: conv1.0.weight" in text and "conv1.weight" in text


def test_a_deeper_network_does_not_pass_for_a_shallow_one(tmp_path):
    # Every tensor of resnet18 is in a file of resnet34, with its shape.
    text = refused(encoder("resnet18"), "resnet18", saved(tmp_path / "w.pth", timm_state("resnet34")))
    assert "deeper blocks than the encoder's: layer1.2.conv1.weight" in text


class Code:
    """What a malicious checkpoint holds: a call that unpickling would make."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, write):
    trap, path = tmp_path / "was-run", tmp_path / "evil.pth"
    write({"conv1.0.weight": torch.ones(1), "payload": Code(str(trap))}, path)
    text = refused(encoder(), "test_resnet", str(path))
    assert not trap.exists()
    assert "refused" in text and str(path) in text
    with path.open("rb") as file:  # the trap does work
        torch.load(file, weights_only=False) if write is torch.save else pickle.load(file)
    assert trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.pth", None, "there is no file"),
        ("w.onnx", b"", "is not one of"),
        ("w.safetensors", b"nonsense", "cannot be read"),
        ("w.pth", b"nonsense", "no code in it was run"),
        ("w.pth", b"", "truncated, damaged or no checkpoint"),
        ("w.pth", b"eight words of text are no weights", "truncated, damaged or no checkpoint"),
        ("w.pth", b"PK\3\4" + bytes(100), "truncated, damaged or no checkpoint"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert said in refused(encoder(), "test_resnet", str(path))


def test_scores_of_numpy_beside_the_weights_are_read(tmp_path):
    """As in the checkpoints of published training code; those of NumPy 1 call their function otherwise."""
    score = np.float64(71.5)
    torch.save({"model": {"a": torch.ones(2)}, "best": score, "epoch": np.int64(3)}, tmp_path / "new.pth")
    tensors = read_weights(tmp_path / "new.pth")
    assert list(tensors) == ["a"] and load_checkpoint(tmp_path / "new.pth")["best"] == score
    text = pickle.dumps({"best": score}, protocol=2)
    assert b"numpy._core.multiarray" in text
    torch.save({"a": torch.ones(2), "best": score}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pth").write_bytes(old)
    assert list(read_weights(tmp_path / "old.pth")) == ["a"]


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.ones(2)])
def test_checkpoints_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no named tensors"):
        read_weights(tmp_path / "w.pth")


def test_from_scratch_touches_nothing(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a download"))
    target = encoder()
    before = target.state_dict()["conv1.0.weight"].clone()
    report = load_pretrained(target, "test_resnet", False)
    assert torch.equal(target.state_dict()["conv1.0.weight"], before)
    assert report.summary() == "encoder test_resnet: from scratch"


def test_without_a_network_the_file_to_fetch_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError) as caught:
        deeplabv3plus(3, 2, 0, True, encoder="test_resnet")
    first, second, third = str(caught.value).splitlines()
    assert "test_resnet cannot be downloaded: ConnectionError: no route to host" in first
    assert "model.safetensors from the Hugging Face repository timm/test_resnet" in second
    assert 'network.pretrained = "/path/to/model.safetensors"' in third


def test_a_gate_is_named_where_it_is_met(monkeypatch):
    monkeypatch.setattr(pretrained, "create_connection", Mock(side_effect=OSError("no route to host")))
    monkeypatch.setattr(pretrained, "getproxies", dict)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", Mock(side_effect=LocalEntryNotFoundError("not cached")))
    with pytest.raises(WeightsError) as caught:
        load_pretrained(encoder(), "convnext_tiny.dinov3_lvd1689m", True)
    _, second, _ = str(caught.value).splitlines()
    assert "timm/convnext_tiny.dinov3_lvd1689m (gated: accept the dinov3-license there first) on another" in second


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    def cached(*args, **kwargs):
        assert constants.HF_HUB_OFFLINE  # or its client would try again and again
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", cached)
    monkeypatch.setattr(pretrained, "create_connection", Mock(side_effect=OSError("no route to host")))
    monkeypatch.setattr(pretrained, "getproxies", dict)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(WeightsError, match=r"cannot be downloaded: ConnectionError: https://.* cannot be reached\."):
        load_pretrained(encoder(), "test_resnet", True)
    assert constants.HF_HUB_OFFLINE == before


def test_a_download_is_loaded_and_reported(monkeypatch, tmp_path):
    state = timm_state()
    path = saved(tmp_path / "model.safetensors", state)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *args, **kwargs: path)
    network = deeplabv3plus(5, 2, 0, True, encoder="test_resnet")
    found = network.encoder.state_dict()
    assert torch.equal(found["layer4.0.bn1.running_var"], state["layer4.0.bn1.running_var"])
    torch.testing.assert_close(found["conv1.0.weight"][:, 3:], state["conv1.0.weight"][:, :2] * 3 / 5)
    assert "tensors from timm test_resnet; first convolution adapted" in network.pretrained_report


def test_encoders_without_published_weights_say_so():
    with pytest.raises(WeightsError, match="timm has no pretrained weights for resnetblur18"):
        load_pretrained(encoder("resnetblur18"), "resnetblur18", True)
