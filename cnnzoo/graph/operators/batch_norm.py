"""Batch normalization, alone or with the addition and the ReLU that follow it."""

from collections.abc import Callable

import numpy as np

from cnnzoo.graph.initializers import ones, zeros
from cnnzoo.graph.ledger import Pass
from cnnzoo.graph.operator import Buffer, Context, Loan, Operator, Parameter, Requirements
from cnnzoo.graph.operators.synchronization import add_up_sums, merge_replicas
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.batch_norm import (
    batch_norm_backward,
    batch_norm_backward_finish,
    batch_norm_backward_sums,
    batch_norm_finish,
    batch_norm_inference,
    batch_norm_statistics,
    find_line,
    merge_gradient_sums,
    merge_statistics,
    normalize_forward,
)
from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.convolution import Scratch

NO_RESIDUAL, WRITE_RESIDUAL, ADD_TO_RESIDUAL = range(3)


class BatchNorm(Operator):
    """y = relu?(gamma (x - mean) / sqrt(var + eps) + beta + residual?), statistics over images and pixels.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015. Training uses the batch's statistics (biased variance) and
    updates the running ones (unbiased variance) as PyTorch does: new = (1 - momentum) old + momentum batch. Inference
    uses the running ones. The addition and the ReLU are set by the fusion passes; a second input is the residual.

    Parameters
    ----------
    name : str
    channels : int
    eps, momentum : float

    Attributes
    ----------
    parts : tuple of (int, Loan or None)
        Of each part of the input its channels and where its statistics are known from; set by a pass.
    add_up : callable or None
        As `Network.synchronize_batch_norm`.
    """

    saves_inputs = (0,)
    forward_in_place = True
    backward_in_place = True

    def __init__(self, name: str, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(name)
        self.eps, self.momentum = eps, momentum
        self.add = self.relu = False
        self.parts: tuple[tuple[int, Loan | None], ...] = ((channels, None),)
        self.add_up: Callable[[np.ndarray], None] | None = None
        self.parameters = (Parameter("weight", (channels,), ones), Parameter("bias", (channels,), zeros))
        self.buffers = (Buffer("running_mean", channels, 0.0), Buffer("running_var", channels, 1.0))

    @property
    def kind(self) -> str:
        """With what the fusion passes merged into it."""
        return "BatchNorm" + "+Add" * self.add + "+ReLU" * self.relu

    @property
    def saves_output(self) -> bool:  # type: ignore[override]
        """The ReLU's mask is seen in the input, but not where a residual was added."""
        return self.add and self.relu

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Return what one node needs for a batch.

        Kept for backward: coefficients [scale, shift, mean][channels], inv_std [channels], and in float64 the sums of
        dz and of dz (x - mean) over all rows. Lent to other batch norms of the same input: its mean and M2 in float64.
        Scratch: partial sums of blocks of rows, backward slope and offset of the line besides.
        """
        rows, channels = images * inputs[0].pixels, inputs[0].channels
        needs = Requirements(kept={"coefficients": (3 * channels, None)})
        if training:
            partials = block_count(rows, block_rows(channels)) * 2 * channels
            needs.kept["inv_std"] = channels, None
            needs.kept["gradient_sums"] = 2 * channels, np.dtype(np.float64)
            needs.lent["moments"] = 2 * channels, np.dtype(np.float64)
            needs.forward_scratch = (Scratch(partials),)  # not needed where the statistics can be borrowed
            needs.backward_scratch = (Scratch(partials + 2 * channels),)
        return needs

    def moved(self, c: Context, direction: Pass) -> int:
        """Return the bytes read and written; none for what the reader does on load, or has done of backward."""
        if direction == "forward" and self.deferred:
            return 0 if self.borrows else c.x[0].nbytes
        if direction == "backward" and c.dx_line.rows:
            return 0
        return super().moved(c, direction)

    def forward(self, c: Context) -> None:
        """Normalize by the batch's statistics and update the running ones; in inference, normalize by the latter.

        Writes scale = gamma / sqrt(var + eps), shift = beta - mean scale and mean to the coefficients, and y = relu?(x
        scale + shift + residual?) unless the reader computes it on load. Statistics that another node has are borrowed.
        """
        x = c.x[0]
        scale, shift, mean = np.split(c.kept["coefficients"], 3)
        gamma, beta = c.weights["weight"], c.weights["bias"]
        running_mean, running_var = c.buffers["running_mean"], c.buffers["running_var"]
        if c.training:
            self._measure(c)
            batch_mean, m2 = np.split(c.kept["moments"], 2)
            rows = x.rows
            if self.add_up is not None:
                batch_mean, m2, rows = merge_replicas(batch_mean, m2, rows, self.add_up)
            batch_norm_finish(
                batch_mean, m2, rows, gamma, beta, self.eps, self.momentum,
                running_mean, running_var, mean, c.kept["inv_std"], scale, shift,
            )  # fmt: skip
        else:
            batch_norm_inference(gamma, beta, running_mean, running_var, self.eps, scale, shift)
        if not self.deferred:
            self.recompute(c)

    def values(self, c: Context) -> np.ndarray:
        """Return y, computed here where the reader does so on load."""
        if not self.deferred:
            return super().values(c)
        scale, shift, _ = np.split(c.kept["coefficients"], 3)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.maximum(c.x[0].values * scale + shift, 0)

    def recompute(self, c: Context) -> None:
        """Compute y from x and the coefficients, which stay as they are."""
        x, y = c.x[0], c.y
        scale, shift, _ = np.split(c.kept["coefficients"], 3)
        residual = c.x[1] if self.add else x
        normalize_forward(
            x.data, x.ld, scale, shift, residual.data, residual.ld, y.data, y.ld, x.rows, x.channels,
            self.add, self.relu,
        )  # fmt: skip

    def _measure(self, c: Context) -> None:
        """Write mean and M2 of the batch: of each part those that are known, or measured by its producer, or here."""
        x, first = c.x[0], 0
        mean, m2 = np.split(c.kept["moments"], 2)
        for channels, loan in self.parts:
            part = slice(first, first + channels)
            lent = c.borrowed.get(loan) if loan else None
            if lent and loan and loan.name == "moments":
                mean[part], m2[part] = np.split(lent.array, 2)
            else:
                if lent:
                    partials, rows_per_block = lent.array, lent.state.forward.statistics_rows
                else:
                    partials, rows_per_block = c.scratch, block_rows(channels)
                    batch_norm_statistics(x.data[first:], x.ld, x.rows, channels, rows_per_block, partials)
                merge_statistics(partials, x.rows, rows_per_block, mean[part], m2[part])
            first += channels

    def backward(self, c: Context) -> None:
        """Compute dx, the residual's gradient, dgamma and dbeta (`cnnzoo.kernels.batch_norm` derives them).

        Where the reader's input gradient has begun it, only the line slope x + offset that dx lacks is left to find.
        """
        if c.dx_line.rows:  # the rest was done by the reader's input gradient
            slope, offset = c.dx_line.values
            self._finish_backward(c, slope, offset, c.accumulate_line)
            return
        x, y, dy, dx = c.x[0], c.y, c.dy, c.dx[0]
        channels = x.channels
        scale, shift, mean = np.split(c.kept["coefficients"], 3)
        slope, offset, partials = np.split(c.backward_scratch, [channels, 2 * channels])
        from_output = self.add
        batch_norm_backward_sums(
            dy.data, dy.ld, x.data, x.ld, y.data, y.ld, scale, shift, mean, x.rows, channels,
            self.relu, from_output, partials,
        )  # fmt: skip
        merge_gradient_sums(partials, block_count(x.rows, block_rows(channels)), c.kept["gradient_sums"])
        self._finish_backward(c, slope, offset, False)
        residual_kind, dresidual = NO_RESIDUAL, dx
        if self.add:
            residual_kind = ADD_TO_RESIDUAL if c.accumulate[1] else WRITE_RESIDUAL
            dresidual = c.dx[1]
        batch_norm_backward(
            dy.data, dy.ld, x.data, x.ld, y.data, y.ld, scale, shift, slope, offset, dx.data, dx.ld,
            dresidual.data, dresidual.ld, x.rows, channels, self.relu, from_output, c.accumulate[0], residual_kind,
        )  # fmt: skip

    def _finish_backward(self, c: Context, slope: np.ndarray, offset: np.ndarray, accumulate_line: bool) -> None:
        """Write the parameters' gradients, and the two terms of dx that follow from the sums of all replicas."""
        scale, _, mean = np.split(c.kept["coefficients"], 3)
        sums, rows, inv_std = c.kept["gradient_sums"], c.x[0].rows, c.kept["inv_std"]
        dgamma, dbeta = c.gradients["weight"], c.gradients["bias"]
        batch_norm_backward_finish(sums, inv_std, dgamma, dbeta, c.accumulate_gradients)
        if self.add_up is not None:
            sums, rows = add_up_sums(sums, rows, self.add_up)
        find_line(sums, rows, scale, mean, inv_std, slope, offset, accumulate_line)
