"""Backward says truly which gradients are final: they are sent to other machines while it goes on."""

import numpy as np
import pytest

from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.models import create_model, list_models


@pytest.mark.parametrize("model", list_models())
def test_gradients_said_to_be_final_are_not_written_again(model):
    net = create_model(model)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *net.image_shape)).astype(np.float32)
    _, dlogits = cross_entropy(net.forward(images, training=True), np.array([1, 2]))
    steps = []
    net.backward(dlogits, on_gradient=lambda done: steps.append((done, net.gradient_arena[:done].copy())))
    counts = [done for done, _ in steps]
    assert counts == sorted(counts)
    assert counts[-1] == net.gradient_arena.size
    assert len(set(counts)) > 3, "gradients become final one layer after another"
    for done, gradient in steps:
        np.testing.assert_array_equal(gradient, net.gradient_arena[:done])
