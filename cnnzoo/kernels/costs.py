"""The cost table: what the parts of a convolution take, by which an algorithm is chosen where none is named.

Nanoseconds on one core of a Zen 4 at 3.5 GHz with 512-bit vectors, fitted to `benchmarks/kernels.py` and to what tuning
measured. Choices depend on ratios of these, which differ less between machines than the figures; they are the same for
any number of threads. When it was fitted, all passes of the networks' distinct convolutions by these choices took 1.5%
longer than by the fastest algorithms, or less, with batches of 1, 2, 4, 16 and 128 images.
"""

from cnnzoo.kernels.blocks import block_count

MULTIPLY_ADD = 0.019  # of a matrix product whose columns fill vectors
GATHERED_RUN = 3.0  # of an im2col row: the channels of one tap
GATHERED_VECTOR = 0.8  # of such a run
PACKED_VECTOR = 20.0  # of weights packed into panels
TRANSFORMED_VECTOR = 5.6  # one of a tile's grid, into or out of the transformed domain
TRANSFORMED_WEIGHT_VECTOR = 7.2  # the same of weights, which are spread over more memory
TRANSFORMED_SUM_VECTOR = 3.0  # the same of a weight gradient, out of the transformed domain
SUMMED_VECTOR = 2.0  # of a weight gradient that is written, once for each product that is added to it
STEP_VECTOR = 0.5  # of a depthwise sum: one tap
MOVED_VALUE = 0.3  # of an activation read or written, where two cores share the memory
POOLED_VALUE = 0.06  # of a pool's window: one value

COST_LANES = 16  # of the vectors that the figures above count


def count_vectors(channels: int) -> int:
    """Return the vectors that hold `channels` channels."""
    return block_count(channels, COST_LANES)
