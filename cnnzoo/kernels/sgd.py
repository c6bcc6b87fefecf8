"""Stochastic gradient descent with momentum and weight decay, one pass over a flat parameter arena.

Reference: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.compile import kernel, worker


@worker
def _update(w, dw, velocity, scale, lr, momentum, weight_decay, nesterov, sources_form):
    real = w.dtype.type
    scale, lr, momentum, weight_decay = real(scale), real(lr), real(momentum), real(weight_decay)
    if sources_form:
        for i in range(w.size):
            g = scale * dw[i] + weight_decay * w[i]
            velocity[i] = momentum * velocity[i] - lr * g
            # Nesterov looks one momentum step ahead of the new velocity.
            w[i] += (momentum * velocity[i] - lr * g) if nesterov else velocity[i]
    else:
        for i in range(w.size):
            g = scale * dw[i] + weight_decay * w[i]
            velocity[i] = momentum * velocity[i] + g
            w[i] -= lr * ((g + momentum * velocity[i]) if nesterov else velocity[i])


@kernel("void(T[::1], T[::1], T[::1], i8[::1], f8[::1], f8, f8, f8, bool_, bool_)", parallel=True)
def sgd_update(w, dw, velocity, bounds, weight_decays, scale, lr, momentum, nesterov, sources_form):
    """Update the parameters w and their velocity, all of one length, from the gradients dw.

    Segment s, from bounds[s] to bounds[s + 1], has the weight decay weight_decays[s]; the segments cover w in order.
    With g = scale * dw + weight_decay * w, PyTorch's form is v = momentum v + g, w -= lr v, or w -= lr (g + momentum v)
    with `nesterov`; a velocity of zeros makes the first step PyTorch's (v = g). The form of the sources (Sutskever et
    al.) is v = momentum v - lr g, w += v, or w += momentum v - lr g with `nesterov`. At a constant rate they agree;
    when the rate changes, PyTorch's applies the new rate to the whole velocity, the sources' form to new gradients
    only. The scalars are rounded to w's type.
    """
    for block in prange(block_count(w.size, BLOCK_ELEMENTS)):
        start = np.int64(block) * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, w.size)
        for s in range(weight_decays.size):
            first, last = max(start, bounds[s]), min(stop, bounds[s + 1])
            if first < last:
                _update(
                    w[first:last], dw[first:last], velocity[first:last],
                    scale, lr, momentum, weight_decays[s], nesterov, sources_form,
                )  # fmt: skip
