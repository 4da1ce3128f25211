"""MONAI's networks behind farcluss's contract: sizes, embeddings, norms, threads, weights and refusals."""

import copy
import functools
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from farcluss.errors import PluginError, WeightsError
from farcluss.learning.anchors import nearest
from farcluss.networks.base import Perturbation
from farcluss.plugins.signatures import describe_source
from farcluss_medical.networks import monai

SMALL = {
    "UNet": {"channels": [4, 6, 8, 10, 12], "num_res_units": 1},
    "BasicUNet": {"features": [4, 4, 6, 8, 10, 4]},
    "DynUNet": {"filters": [4, 6, 8, 10, 12]},
    "SegResNet": {"init_filters": 4},
    "VNet": {},
    "SwinUNETR": {"feature_size": 12, "num_heads": [1, 2, 2, 2], "depths": [2, 1, 1, 1], "window_size": 4},
}
MULTIPLES = {"SegResNet": 8, "SwinUNETR": 32}
HEAVY = [("VNet", 3), ("SwinUNETR", 3)]
"""They have millions of parameters in 3-D, whatever is asked for, and take longer than all others."""
CASES = [
    pytest.param(name, dims, id=f"{name}-{dims}d", marks=[pytest.mark.slow] if (name, dims) in HEAVY else [])
    for name in SMALL
    for dims in (2, 3)
]
ODD = {2: (19, 37), 3: (11, 18, 9)}
every = pytest.mark.parametrize(("name", "dims"), CASES)


def small(name="BasicUNet", dims=2, classes=3, dim=5, channels=2, pretrained=False, arguments=None, **options):
    torch.manual_seed(0)
    given = {**SMALL[name], **(arguments or {})}
    return monai(channels, classes, dim, pretrained, architecture=name, spatial_dims=dims, arguments=given, **options)


@functools.cache
def shared(name, dims):
    """A network in evaluation mode that many tests may use and none may change."""
    return small(name, dims).eval()


def images(dims, batch=2, channels=2, seed=1, size=None):
    return torch.randn(batch, channels, *(size or ODD[dims]), generator=torch.Generator().manual_seed(seed))


def padded(tensor, multiple):
    """Border repeated at the end of each axis by NumPy, to two cells along the last axis at least."""
    cells = [-(-extent // multiple) for extent in tensor.shape[2:]]
    if max(cells) == 1:
        cells[-1] = 2
    ends = [(0, n * multiple - extent) for n, extent in zip(cells, tensor.shape[2:], strict=True)]
    return torch.from_numpy(np.pad(tensor.numpy(), [(0, 0), (0, 0), *ends], mode="edge"))


@every
def test_logits_are_those_of_the_librarys_own_forward(name, dims):
    network = shared(name, dims)
    given = images(dims, batch=1)
    with torch.no_grad():
        wanted = network.model(padded(given, MULTIPLES.get(name, 16)))
        found = network(given)
    assert found.logits.shape == (1, 3, *ODD[dims])
    assert torch.equal(found.logits, wanted[:, :, *(slice(extent) for extent in ODD[dims])])


@pytest.mark.parametrize("name", SMALL)
def test_no_embeddings_without_a_dimension(name):
    network = small(name, dim=0)
    assert network.embed is None and not [key for key in network.state_dict() if "embed" in key.partition(".")[0]]
    with torch.no_grad():
        prediction, wanted = network.eval()(images(2)), shared(name, 2)(images(2)).logits
    assert prediction.embeddings is None
    assert torch.equal(prediction.logits, wanted)  # the head is drawn last and changes nothing


@every
def test_gradients_reach_every_parameter(name, dims):
    network = small(name, dims)
    prediction = network(images(dims, batch=1))
    (prediction.logits.square().sum() + prediction.embeddings.square().sum()).backward()
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # A bias in front of a norm moves nothing; every weight does. Attention over one cell alone has no use for places.
    still = {key for key, g in gradients.items() if g.dim() > 1 and "position_bias" not in key and not g.abs().max()}
    assert still == set()


@every
def test_a_batch_gives_what_its_images_give(name, dims):
    """In float64: on some processors kernels of another batch size differ by 1e-4 in float32."""
    network = copy.deepcopy(shared(name, dims)).double()
    given = images(dims).double()
    with torch.no_grad():
        together, again, alone = network(given), network(given), [network(given[i : i + 1]) for i in (0, 1)]
    for index in (0, 1):  # logits, embeddings
        assert torch.equal(together[index], again[index])
        singles = torch.cat([prediction[index] for prediction in alone])
        torch.testing.assert_close(together[index], singles, rtol=1e-9, atol=1e-12)


@every
def test_a_state_dict_makes_an_equal_network(name, dims):
    network, other = small(name, dims), small(name, dims, arguments={})
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    other.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    given = images(dims, batch=1)
    with torch.no_grad():
        wanted, *found = (each.eval()(given) for each in (network, other, copied))
    for prediction in found:
        assert torch.equal(prediction.logits, wanted.logits) and torch.equal(prediction.embeddings, wanted.embeddings)
    # The copy is whole: what happens to it does not touch the first.
    assert not {id(p) for p in network.parameters()} & {id(p) for p in copied.parameters()}


@every
@pytest.mark.parametrize("stride", [2, 4])
def test_embeddings_have_the_stride_asked_for(name, dims, stride):
    network = shared(name, dims) if stride == 4 else small(name, dims, embed_stride=stride).eval()
    assert network.stride == (stride,) * dims
    size = ODD[dims]
    with torch.no_grad():
        assert network(images(dims, batch=1)).embeddings.shape == (1, 5, *(extent // stride for extent in size))


@every
def test_norms_are_instance_norms_where_there_is_a_choice(name, dims):
    network = shared(name, dims)
    norms = [m for m in network.modules() if isinstance(m, (_InstanceNorm, _BatchNorm, nn.GroupNorm))]
    assert norms and {isinstance(norm, _InstanceNorm) for norm in norms} == {name != "VNet"}
    assert name == "VNet" or all(norm.affine for norm in norms)


@every
def test_threads_do_not_disturb_each_other(name, dims):
    network = shared(name, dims)
    given = [images(dims, batch=1, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        wanted = [network(each) for each in given]
    found = {0: [], 1: []}
    start = threading.Barrier(2)

    def work(index):
        start.wait()
        with torch.no_grad():
            for _ in range(2):
                found[index].append(network(given[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.equal(wanted[0].embeddings, wanted[1].embeddings)
    for index in (0, 1):
        assert len(found[index]) == 2
        for prediction in found[index]:
            torch.testing.assert_close(prediction.logits, wanted[index].logits)
            torch.testing.assert_close(prediction.embeddings, wanted[index].embeddings)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@every
def test_it_learns_in_distributed_training(name, dims, group):
    network = small(name, dims)
    wrapped = nn.parallel.DistributedDataParallel(network)
    for _ in range(2):  # a parameter without a gradient would end the second forward
        logits, embeddings = wrapped(images(dims, batch=1))
        (logits.sum() + embeddings.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


slowly = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["BasicUNet", slowly("UNet"), slowly("SegResNet")])
def test_a_compiler_sees_one_graph(name):
    network = small(name, 2).eval()
    given = images(2)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        wanted, found = network(given), compiled(given)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.embeddings, wanted.embeddings)


@every
@pytest.mark.parametrize("point", ["encoder", "fused"])
def test_features_are_perturbed_where_it_says(name, dims, point):
    """The maps have the channels that the network tells; what follows sees the change, of the given images alone."""
    network, given, seen = shared(name, dims), images(dims, batch=3), []

    def dropped(maps, drawn):
        seen.append(tuple(each.shape[1] for each in maps))
        odd = [torch.arange(each.shape[1]).view(1, -1, *[1] * dims) % 2 for each in maps]
        return tuple(each * o for each, o in zip(maps, odd, strict=True))

    with torch.no_grad():
        plain = network(given).logits
        found = network(given, Perturbation(dropped, point, (1, 2), (None, torch.ones(2)))).logits
    assert seen == [network.points[point]]
    torch.testing.assert_close(found[:1], plain[:1], rtol=1e-4, atol=1e-4)
    assert (found[1:] - plain[1:]).abs().flatten(1).amax(1).min() > 1e-4


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("extent", [1, 3, 16, 17, 18, 19, 31, 35, 47, 64, 97])
def test_an_embedding_is_of_the_cell_that_holds_its_label(extent, stride):
    network = small(dims=2, dim=1, embed_stride=stride).eval()
    size = (extent, 32)
    # The decoder's map is replaced by the number of each cell, the head by nothing.
    cells = torch.arange(-(-max(extent, 32) // 16) * 16 // stride).float()

    def walk(model, padded, change):
        level = cells[: padded.shape[2] // stride].view(1, 1, -1, 1).expand(1, 1, -1, padded.shape[3] // stride)
        return padded, [level] * 4

    network._walk, network.embed = walk, nn.Identity()
    found = network(torch.zeros(1, 2, *size)).embeddings[0, 0, :, 0]
    pixels = torch.arange(extent)[None]
    labels = nearest(pixels, (len(found),))[0]  # the pixel that the learner takes each label from
    assert len(found) == max(1, extent // stride)
    assert found.tolist() == (labels // stride).tolist()
    assert len(set(found.tolist())) == len(found)


def test_axes_may_have_their_own_strides():
    strides = [1, [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    network = small("DynUNet", 3, arguments={"strides": strides, "filters": [4, 6, 8, 10]}, embed_stride=4).eval()
    assert network.stride == (2, 4, 4)
    with torch.no_grad():
        prediction = network(images(3, batch=1, size=(5, 16, 19)))
    assert prediction.logits.shape == (1, 3, 5, 16, 19) and prediction.embeddings.shape == (1, 5, 2, 4, 4)
    narrow = small("UNet", 2, arguments={"channels": [4, 6, 8], "strides": [[1, 2], 2]}, embed_stride=2).eval()
    assert narrow.stride == (1, 2)
    assert narrow(images(2, batch=1, size=(7, 9))).logits.shape == (1, 3, 7, 9)


def test_dropout_leaves_something_of_every_image():
    network = small("VNet", 2)
    dropouts = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    assert len(dropouts) > 4
    torch.manual_seed(0)
    for dropout in dropouts:
        left = dropout(torch.ones(8, 32, 4, 4)).amax((2, 3)) > 0
        assert left.any(1).all() and not left.all()


def test_an_image_of_one_pixel_is_enough():
    for name in SMALL:
        network = small(name, 2)  # in training, where norms count values
        prediction = network(images(2, batch=1, size=(1, 1)))
        assert prediction.logits.shape == (1, 3, 1, 1) and prediction.embeddings.shape == (1, 5, 1, 1)


def test_head_parameters_are_the_output_layer_and_the_embedding_head():
    for name in SMALL:
        network = small(name, 2)
        heads = set(network.head_parameters())
        owned = {key for key, p in network.named_parameters() if p.shape[0] == 3 and p.dim() > 1}
        assert owned and owned <= heads and {key for key in heads if key.startswith("embed.")}
        assert len(heads) < len(list(network.parameters())) / 2


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_read_from_a_file(name, tmp_path):
    trained = small(name, 2)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(1)
    torch.save({"state_dict": trained.model.state_dict()}, tmp_path / "model.pt")
    network = small(name, 2, classes=7, pretrained=str(tmp_path / "model.pt"))
    heads = set(network.head_parameters())
    theirs = trained.state_dict()
    body = [key for key, _ in network.named_parameters() if key not in heads]
    assert body and all(torch.equal(network.state_dict()[key], theirs[key]) for key in body)
    assert network(images(2)).logits.shape[1] == 7
    assert f"tensors from {tmp_path / 'model.pt'}" in network.pretrained_report


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(small("SegResNet", 2).model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="BasicUNet"):
        small("BasicUNet", 2, pretrained=str(tmp_path / "model.pt"))
    with pytest.raises(WeightsError, match="there is no file"):
        small(pretrained=str(tmp_path / "none.pt"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pretrained": True}, "no weights to download"),
        ({"arguments": {"feature": [4]}}, "BasicUNet has no argument 'feature'; did you mean 'features'?"),
        ({"arguments": {"spatial_dims": 3}}, "spatial_dims cannot be set"),
        ({"name": "VNet", "arguments": {"dropout_prob_dwn": 0.1}}, "did you mean 'dropout_prob_down'?"),
        ({"name": "DynUNet", "arguments": {"deep_supervision": True}}, "deep_supervision cannot be set"),
        ({"name": "SwinUNETR", "arguments": {"feature_size": 10}}, "should be divisible by 12"),
        (
            {"name": "DynUNet", "arguments": {"strides": [2, 2, 2], "filters": [4, 4, 4]}},
            "restore the size of the image",
        ),
        ({"name": "SegResNet", "arguments": {"blocks_up": [1, 1]}}, "SegResNet cannot be built"),
        ({"name": "DynUNet", "arguments": {"strides": [1, 2, 2], "filters": [4, 4, 4]}}, "no map of stride 4"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options, says):
    with pytest.raises(PluginError) as caught:
        small(**options)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_images_of_other_dimensions_are_refused():
    with pytest.raises(PluginError, match=r"network\.spatial_dims = 3"):
        small(dims=2)(images(3))


def test_options_are_read_without_importing_monai():
    description = describe_source("farcluss_medical.networks", "monai")
    assert description is not None and not description.open
    assert set(description.options) == {"architecture", "spatial_dims", "part", "embed_stride", "arguments"}
    assert all(option.help for option in description.options.values())
    assert description.check("monai", {"architecture": "Basic"})[1]
