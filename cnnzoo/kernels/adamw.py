"""Adam with decoupled weight decay, one pass over a flat parameter arena.

References: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1; Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.compile import kernel, worker


@worker
def _update(w, dw, mean, square, scale, lr, beta1, beta2, epsilon, weight_decay, rate, root):
    real = w.dtype.type
    scale, epsilon, root = real(scale), real(epsilon), real(root)
    keep = real(1 - lr * weight_decay)
    beta2, new1, new2, rate = real(beta2), real(1 - beta1), real(1 - beta2), real(rate)
    for i in range(w.size):
        g = scale * dw[i]
        mean[i] += new1 * (g - mean[i])
        square[i] = beta2 * square[i] + new2 * g * g
        w[i] = keep * w[i] - rate * mean[i] / (np.sqrt(square[i]) / root + epsilon)


@kernel("void(T[::1], T[::1], T[::1], T[::1], i8[::1], f8[::1], f8, f8, f8, f8, f8, i8)", parallel=True)
def adamw_update(w, dw, mean, square, bounds, weight_decays, scale, lr, beta1, beta2, epsilon, step):
    """Update the parameters w and the running means of gradients and of their squares, all of one length.

    Segment s, from bounds[s] to bounds[s + 1], has the weight decay weight_decays[s]; the segments cover w in order.
    With g = scale * dw and t = `step`, which counts from 1, as in PyTorch: w -= lr weight_decay w,
    mean = beta1 mean + (1 - beta1) g, square = beta2 square + (1 - beta2) g^2,
    w -= lr mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + epsilon). Scalars are computed in float64 and rounded
    to w's type.
    """
    rate = lr / (1 - beta1**step)
    root = np.sqrt(1 - beta2**step)
    for block in prange(block_count(w.size, BLOCK_ELEMENTS)):
        start = np.int64(block) * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, w.size)
        for s in range(weight_decays.size):
            first, last = max(start, bounds[s]), min(stop, bounds[s + 1])
            if first < last:
                _update(
                    w[first:last], dw[first:last], mean[first:last], square[first:last],
                    scale, lr, beta1, beta2, epsilon, weight_decays[s], rate, root,
                )  # fmt: skip
