"""The operators in plain NumPy float64, as their definitions read: what the kernels are tested against.

Activations are [N, H, W, C], weights [kh, kw, Cin, Cout]. Nothing here is fast, and nothing is shared with `cnnzoo`.
"""

import numpy as np


def output_size(size, window, stride, padding):
    """Return the extent of an output: floor((size + 2 padding - window) / stride) + 1."""
    return (size + 2 * padding - window) // stride + 1


def pad(x, padding, value=0.0):
    """Return x [N, H, W, C] in float64 with `padding` pixels of `value` on each of its four sides."""
    x = np.asarray(x, dtype=np.float64)
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


def _tap(padded, i, j, height, width, stride):
    """Return the view [N, height, width, C] of what kernel position (i, j) meets at each output pixel."""
    return padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]


def conv2d(x, w, b=None, stride=1, padding=0):
    """Return y[n, p, q, o] = b[o] + sum over i, j, c of x[n, p stride + i - padding, q stride + j - padding, c] w."""
    w = np.asarray(w, dtype=np.float64)
    kernel_height, kernel_width, _, out_channels = w.shape
    images, height, width, _ = x.shape
    height = output_size(height, kernel_height, stride, padding)
    width = output_size(width, kernel_width, stride, padding)
    padded = pad(x, padding)
    y = np.zeros((images, height, width, out_channels))
    for i, j in np.ndindex(kernel_height, kernel_width):
        y += _tap(padded, i, j, height, width, stride) @ w[i, j]
    return y if b is None else y + np.asarray(b, dtype=np.float64)


def conv2d_input_gradient(dy, w, input_shape, stride=1, padding=0):
    """Return dx of shape `input_shape` [N, H, W, Cin]: each dy goes back along the weights it came through."""
    dy, w = np.asarray(dy, dtype=np.float64), np.asarray(w, dtype=np.float64)
    images, height, width, channels = input_shape
    dx = np.zeros((images, height + 2 * padding, width + 2 * padding, channels))
    for i, j in np.ndindex(w.shape[:2]):
        _tap(dx, i, j, dy.shape[1], dy.shape[2], stride)[...] += dy @ w[i, j].T
    return dx[:, padding : padding + height, padding : padding + width]


def conv2d_weight_gradient(x, dy, kernel_shape, stride=1, padding=0):
    """Return dw [kh, kw, Cin, Cout] for `kernel_shape` (kh, kw); the bias's gradient is dy.sum(axis=(0, 1, 2))."""
    dy = np.asarray(dy, dtype=np.float64)
    padded = pad(x, padding)
    dw = np.zeros((*kernel_shape, x.shape[3], dy.shape[3]))
    for i, j in np.ndindex(*kernel_shape):
        dw[i, j] = np.tensordot(_tap(padded, i, j, dy.shape[1], dy.shape[2], stride), dy, axes=([0, 1, 2], [0, 1, 2]))
    return dw
