"""Weights to and from PyTorch through safetensors files."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.interop import load_weights, save_weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

from tests.pytorch_models import make_pytorch_model  # noqa: E402

MODELS = ["vgg16_bn", "resnet18"]


def make_trained_module(name):
    """Return a module whose batch norms have seen batches, so that nothing has its initial value."""
    torch.manual_seed(0)
    module = make_pytorch_model(name)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.randn(4, 3, 32, 32))
    return module.eval()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_state_dict_of_pytorch_gives_its_logits(tmp_path, name, dtype):
    module = make_trained_module(name).to(getattr(torch, dtype))
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(module.state_dict(), path)
    loaded = load_weights(path)
    assert any(key.endswith("num_batches_tracked") for key in loaded)
    net = cnnzoo.create_model(name, seed=1)
    net.load_state_dict(loaded)
    # The types that are narrower than float32 lose nothing on the way.
    for key, tensor in module.float().state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(net.state_dict()[key], tensor.numpy())
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(net.forward(images), expected, rtol=0, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_pytorch_loads_what_is_saved_strictly(tmp_path, name):
    net = cnnzoo.create_model(name, seed=3)
    path = tmp_path / "model.safetensors"
    save_weights(path, net.state_dict())
    loaded = safetensors_torch.load_file(path)
    module = make_pytorch_model(name)
    assert str(module.load_state_dict(loaded, strict=True)) == "<All keys matched successfully>"
    state = {key: a for key, a in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert state.keys() == net.state_dict().keys()
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(state[key].numpy(), array)
    assert safetensors_torch.load_model(make_pytorch_model(name), path, strict=True) == (set(), [])
