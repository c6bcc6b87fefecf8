"""What tests of whole networks share: batches, one pass forward and backward, and how far two results are apart."""

import hashlib

import numpy as np

from cnnzoo.graph.layout import lay_out
from cnnzoo.graph.passes import DEFAULT_PASSES
from cnnzoo.kernels.cross_entropy import cross_entropy


def rewrite(graph, passes=DEFAULT_PASSES):
    """Return what passes make of a graph, one after the other."""
    for each in passes:
        graph = each(graph)
    return graph


def rewrite_and_lay_out(graph, images, training=True, memory="fast", storage=None):
    """Return the layout of a graph as a network in float32 runs it, and the bytes of its arena."""
    return lay_out(rewrite(graph), images, training, np.dtype(np.float32), memory, storage)


def make_batch(net, images, seed=0):
    """Return random images [N, C, H, W] and labels [N] for a network."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, *net.image_shape)).astype(net.dtype)
    return x, rng.integers(0, net.num_classes, images)


def run_step(net, images, labels, label_smoothing=0.0, accumulate=False):
    """Run forward in training and backward; return the loss and the logits."""
    logits = net.forward(images, training=True)
    loss, dlogits = cross_entropy(logits, labels, label_smoothing)
    net.backward(dlogits, accumulate)
    return loss, logits


def fill_arena(net, images, training):
    """Fill with NaN all the memory that a pass over `images` images will work on."""
    net._plans.bind(images, training, net._arrays)
    net._plans.arena[:] = 0xFF


def randomize(net, seed=0, running=True):
    """Move every parameter off its initial value, and the running statistics off 0 and 1 if `running`."""
    rng = np.random.default_rng(seed)
    state = net.state_dict()
    for name, array in state.items():
        if name.endswith("running_var"):
            array *= rng.uniform(0.5, 1.5, array.shape) if running else 1
        elif name.endswith("running_mean"):
            array += 0.2 * rng.standard_normal(array.shape) if running else 0
        elif array.ndim == 1:  # biases, gamma and beta
            array += 0.2 * rng.standard_normal(array.shape)
    net.load_state_dict(state)


def relative_error(actual, expected, floor=0.0):
    """Return ||actual - expected|| / max(||expected||, floor) in float64, Euclidean norms; 0 where both are all 0."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    difference = np.linalg.norm(actual - expected)
    return difference / max(np.linalg.norm(expected), floor) if difference else 0.0


def assert_close(actual, expected, tolerance, floor=0.0):
    """Assert that two mappings hold arrays of the same names, each within `tolerance` by `relative_error`."""
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name], expected[name], floor) for name in expected}
    beyond = [f"{name} {error:.1e}" for name, error in errors.items() if not error <= tolerance]
    assert not beyond, (
        f"{len(beyond)} of {len(errors)} arrays are off by more than {tolerance}: {', '.join(beyond[:8])}"
    )


def assert_equal(actual, expected):
    """Assert that two mappings hold the same arrays, bit for bit."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)


def digest(arrays):
    """Return the SHA-256 of the names and bytes of a mapping of arrays, little-endian, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()
