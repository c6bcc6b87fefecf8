"""Weights that keep a network away from its kinks, where the loss has no derivative and rounding decides.

Of millions of ReLUs a few have inputs within rounding of zero. Two correct programs disagree on which side those lie,
and then on the gradients below them: in float32 by about the root of the rounding error, some 1e-3 to 1e-2 of a
tensor. A finite difference across them is no derivative. So tests that are to be exact first move each channel's bias
a little, into the widest gap that the channel's values leave around zero.

So with max pools whose two largest values are equal but for rounding: `smallest_pool_gap` tells images without them.
"""

import numpy as np

from cnnzoo.graph.initializers import random_key
from cnnzoo.graph.network import Network
from cnnzoo.graph.operators.activation import ReLU
from cnnzoo.graph.operators.pooling import MaxPool

REACH = 0.1  # how far a bias may move, in standard deviations of its channel


def clear_relus(graph, weights, images):
    """Return `weights` in float64 with biases moved so that no ReLU's input is near zero in training on `images`.

    Parameters
    ----------
    graph : Graph
        Used up.
    weights : mapping from str to array
        A state of the network.
    images : array [N, C, H, W]
    """
    net = Network(graph, name="clear", dtype="float64", passes=())
    net.load_state_dict(weights)
    running = {name: array for name, array in net.state_dict().items() if ".running_" in name}
    bias = None
    for node in net.graph.nodes:
        if isinstance(node.operator, ReLU):
            node.operator.forward = _clearing(node.operator.forward, bias)
        else:  # of two terms of a sum, the bias of the second one
            bias = net._arrays[node.operator].weights.get("bias", bias)
    net.forward(images, training=True)
    return net.state_dict() | running


def _clearing(forward, bias):
    def clear_then_forward(c):
        x = _rows(c.x[0])
        shift = -_widest_gaps(x)
        x += shift
        bias[:] += shift
        forward(c)

    return clear_then_forward


def smallest_pool_gap(graph, weights, images):
    """Return by how much the largest value of a max pool's window exceeds the second largest, at least.

    In standard deviations of the pool's input, over all windows whose largest value is positive (behind a ReLU it does
    not matter which zero wins) and all pools without padding, in training in float64; infinity without such a pool.

    The parameters are those of `clear_relus`.
    """
    net = Network(graph, name="gaps", dtype="float64", passes=())
    net.load_state_dict(weights)
    gaps = []
    for node in net.graph.nodes:
        if isinstance(node.operator, MaxPool) and node.operator.padding == 0:
            node.operator.forward = _measuring_gaps(node.operator, gaps)
    net.forward(images, training=True)
    return min(gaps, default=np.inf)


def _measuring_gaps(pool, gaps):
    forward, step = pool.forward, pool.stride

    def measure_then_forward(c):
        x = _rows(c.x[0]).reshape(c.images, c.state.height, c.state.width, -1)
        windows = np.lib.stride_tricks.sliding_window_view(x, (pool.window, pool.window), axis=(1, 2))
        windows = windows[:, ::step, ::step].reshape(-1, pool.window**2)
        second, first = np.partition(windows, -2, axis=1)[:, -2:].T
        gaps.append((first - second)[first > 0].min(initial=np.inf) / x.std())
        forward(c)

    return measure_then_forward


def _rows(matrix):
    """Return a view [rows, channels] of a pixel matrix."""
    strides = (matrix.ld * matrix.data.itemsize, matrix.data.itemsize)
    return np.lib.stride_tricks.as_strided(matrix.data, (matrix.rows, matrix.channels), strides)


def _widest_gaps(x):
    """Return for each column the middle of the widest gap between its values, among the middles near zero."""
    reach = REACH * x.std(axis=0)
    ordered = np.sort(np.concatenate([x, [-2 * reach, 2 * reach]]), axis=0)
    middles, gaps = (ordered[1:] + ordered[:-1]) / 2, np.diff(ordered, axis=0)
    widest = np.where(abs(middles) <= reach, gaps, -1).argmax(axis=0)
    return middles[widest, np.arange(x.shape[1])]


def read_branches(net, images):
    """Return which ReLUs of a network without fusion passes let through, and which pixels won max pools.

    Runs a forward pass in training, with the draws of the first one, and looks at each node before the next one runs.
    """
    branches = {}
    for node, context in net._load(images, training=True)._run_forward(lambda name: random_key(net.seed, 0, name)):
        if isinstance(node.operator, ReLU):
            branches[node.name] = _rows(context.y) > 0
        elif isinstance(node.operator, MaxPool):
            # Where all of a window is 0, behind a ReLU, it does not matter who wins.
            branches[node.name] = np.where(_rows(context.y) > 0, context.kept["winner"].reshape(context.y.rows, -1), 0)
    return branches
