"""Batch norm over all processes: the conversion changes no network."""

import pytest
import torch
from torch import nn

from farcluss.networks.base import synchronize_batch_norm
from farcluss.plugins.registry import build


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet"])
def test_the_conversion_keeps_what_a_network_computes(encoder):
    torch.manual_seed(0)
    options = {"encoder": encoder, "aspp_channels": 8, "head_channels": 8}
    network = build("network", "deeplabv3plus", options, 3, 4, 0, False, kind=nn.Module).eval()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    images = torch.rand(2, 3, 33, 33)
    with torch.no_grad():
        before, keys = network(images).logits.clone(), list(network.state_dict())
        after = synchronize_batch_norm(network)
        torch.testing.assert_close(after(images).logits, before)
    assert list(after.state_dict()) == keys
    norms = [module for module in after.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
