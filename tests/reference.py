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


def windows(x, window, stride, padding, value):
    """Return [window^2, N, H', W', C]: what each place of a pooling window, counted along rows, meets."""
    height = output_size(x.shape[1], window, stride, padding)
    width = output_size(x.shape[2], window, stride, padding)
    padded = pad(x, padding, value)
    return np.stack([_tap(padded, i, j, height, width, stride) for i, j in np.ndindex(window, window)])


def windows_adjoint(parts, input_shape, window, stride, padding):
    """Add parts [window^2, N, H', W', C] back to where `windows` took them from; returns [N, H, W, C]."""
    images, height, width, channels = input_shape
    dx = np.zeros((images, height + 2 * padding, width + 2 * padding, channels))
    for part, (i, j) in zip(parts, np.ndindex(window, window), strict=True):
        _tap(dx, i, j, part.shape[1], part.shape[2], stride)[...] += part
    return dx[:, padding : padding + height, padding : padding + width]


def max_pool(x, window, stride, padding):
    """Return the maxima [N, H', W', C] and their places in the window; the first of equals wins. x has no NaN."""
    parts = windows(x, window, stride, padding, -np.inf)
    return parts.max(axis=0), parts.argmax(axis=0)


def max_pool_input_gradient(dy, winner, input_shape, window, stride, padding):
    """Return dx: each dy goes to its window's winner."""
    places = np.arange(window * window).reshape(-1, 1, 1, 1, 1)
    return windows_adjoint(np.where(winner == places, dy, 0.0), input_shape, window, stride, padding)


def average_pool(x, window, stride, padding):
    """Return the means [N, H', W', C]; padding counts as zeros."""
    return windows(x, window, stride, padding, 0.0).mean(axis=0)


def average_pool_input_gradient(dy, input_shape, window, stride, padding):
    """Return dx: each dy is spread evenly over its window."""
    parts = np.broadcast_to(dy / window**2, (window**2, *dy.shape))
    return windows_adjoint(parts, input_shape, window, stride, padding)


def batch_norm(x, gamma, beta, eps):
    """Return gamma (x - mean) / sqrt(var + eps) + beta for x [rows, channels]; var is the biased one."""
    x = np.asarray(x, dtype=np.float64)
    return gamma * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps) + beta


def batch_norm_gradients(dy, x, gamma, eps):
    """Return dx, dgamma and dbeta, following the graph of Ioffe and Szegedy (2015), section 3, node by node."""
    rows = len(x)
    centered = x - x.mean(axis=0)
    variance = x.var(axis=0)
    inv_std = 1 / np.sqrt(variance + eps)
    dxhat = dy * gamma
    dvariance = (dxhat * centered).sum(axis=0) * -0.5 * (variance + eps) ** -1.5
    dmean = -(dxhat * inv_std).sum(axis=0) - dvariance * 2 * centered.mean(axis=0)
    dx = dxhat * inv_std + dvariance * 2 * centered / rows + dmean / rows
    return dx, (dy * centered * inv_std).sum(axis=0), dy.sum(axis=0)


def cross_entropy(logits, labels, label_smoothing=0.0):
    """Return the mean over rows of -sum over classes of target log(softmax(logits))."""
    logits = np.asarray(logits, dtype=np.float64)
    classes = logits.shape[1]
    targets = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(targets * np.log(softmax)).sum(axis=1).mean()


def depthwise_conv2d(x, w, stride=1, padding=0):
    """Return y[n, p, q, c] = sum over i, j of x[n, p stride + i - padding, q stride + j - padding, c] w[i, j, c]."""
    w = np.asarray(w, dtype=np.float64)
    images, height, width, channels = x.shape
    height, width = (output_size(*pair, stride, padding) for pair in zip((height, width), w.shape[:2], strict=True))
    padded = pad(x, padding)
    y = np.zeros((images, height, width, channels))
    for i, j in np.ndindex(w.shape[:2]):
        y += _tap(padded, i, j, height, width, stride) * w[i, j]
    return y


def depthwise_conv2d_input_gradient(dy, w, input_shape, stride=1, padding=0):
    """Return dx of shape `input_shape` [N, H, W, C]: each dy goes back along the weights it came through."""
    dy, w = np.asarray(dy, dtype=np.float64), np.asarray(w, dtype=np.float64)
    images, height, width, channels = input_shape
    dx = np.zeros((images, height + 2 * padding, width + 2 * padding, channels))
    for i, j in np.ndindex(w.shape[:2]):
        _tap(dx, i, j, dy.shape[1], dy.shape[2], stride)[...] += dy * w[i, j]
    return dx[:, padding : padding + height, padding : padding + width]


def depthwise_conv2d_weight_gradient(x, dy, kernel_shape, stride=1, padding=0):
    """Return dw [kh, kw, C] for `kernel_shape` (kh, kw)."""
    dy = np.asarray(dy, dtype=np.float64)
    padded = pad(x, padding)
    dw = np.zeros((*kernel_shape, dy.shape[3]))
    for i, j in np.ndindex(*kernel_shape):
        dw[i, j] = (_tap(padded, i, j, dy.shape[1], dy.shape[2], stride) * dy).sum(axis=(0, 1, 2))
    return dw
