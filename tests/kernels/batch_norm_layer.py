"""Batch norm, an addition and a ReLU run as a network runs them: what the tests of batch norm share."""

from types import SimpleNamespace

import numpy as np

from cnnzoo.kernels.batch_norm import (
    batch_norm_backward,
    batch_norm_backward_finish,
    batch_norm_backward_sums,
    batch_norm_finish,
    batch_norm_statistics,
    find_line,
    merge_gradient_sums,
    merge_statistics,
    normalize_forward,
)
from cnnzoo.kernels.blocks import block_count, block_rows
from tests.gradients import rounding
from tests.kernels.pixel_matrix import PixelMatrix, empty

EPS = 1e-5


def statistics(x, rows_per_block):
    """Return the mean and M2 of each block of the pixel matrix x as [blocks, 2, channels]."""
    rows, channels = x.values.shape
    partials = np.full((block_count(rows, rows_per_block), 2, channels), np.nan, x.values.dtype)
    batch_norm_statistics(*x.arguments, rows, channels, rows_per_block, partials.reshape(-1))
    return partials


def finished(partials, rows, rows_per_block, gamma, beta, running_mean, running_var, momentum=0.1):
    """Return mean, inv_std, scale and shift; the running statistics are updated in place."""
    moments = np.full((2, gamma.size), np.nan)
    merge_statistics(partials.reshape(-1), rows, rows_per_block, *moments)
    results = np.full((4, gamma.size), np.nan, gamma.dtype)
    running = running_mean, running_var
    batch_norm_finish(*moments, rows, gamma, beta, EPS, momentum, *running, *results)
    return results


class Layer:
    """Batch norm, an addition and a ReLU as a network runs them, float64, with outputs between guards."""

    def __init__(self, x, gamma, beta, residual=None, relu=False, margin=(0, 0), rows_per_block=None):
        self.shape = x.shape
        self.gamma, self.beta, self.relu, self.margin = gamma, beta, relu, margin
        self.rows_per_block = rows_per_block or block_rows(x.shape[1])
        self.x = PixelMatrix(x, margin)
        self.residual = None if residual is None else PixelMatrix(residual, margin)

    def forward(self):
        rows, channels = self.shape
        partials = statistics(self.x, self.rows_per_block)
        running = np.zeros(channels), np.ones(channels)
        results = finished(partials, rows, self.rows_per_block, self.gamma, self.beta, *running)
        self.mean, self.inv_std, self.scale, self.shift = results
        self.y = PixelMatrix(np.full(self.shape, np.nan), self.margin)
        added = self.residual is not None
        residual = self.residual.arguments if added else (empty(), 0)
        x, y = self.x.arguments, self.y.arguments
        normalize_forward(*x, self.scale, self.shift, *residual, *y, rows, channels, added, self.relu)
        self.y.assert_guarded()
        return self.y.values

    def backward(self, dy, from_output, dx=None, dresidual=None, dgamma=None, dbeta=None, in_place=False):
        """Return dx, dgamma, dbeta, dresidual; what is given is added to."""
        rows, channels = self.shape
        dy, x = PixelMatrix(dy, self.margin), self.x.arguments
        y = self.y.arguments if from_output else (empty(), 0)
        partials = np.full(block_count(rows, block_rows(channels)) * 2 * channels, np.nan)
        size = rows, channels
        saved = self.scale, self.shift, self.mean
        batch_norm_backward_sums(*dy.arguments, *x, *y, *saved, *size, self.relu, from_output, partials)
        gradient_sums = np.full(2 * channels, np.nan)
        merge_gradient_sums(partials, block_count(rows, block_rows(channels)), gradient_sums)
        accumulate = dgamma is not None
        dgamma = dgamma.copy() if accumulate else np.full(channels, np.nan)
        dbeta = dbeta.copy() if accumulate else np.full(channels, np.nan)
        line = np.full((2, channels), np.nan)
        batch_norm_backward_finish(gradient_sums, self.inv_std, dgamma, dbeta, accumulate)
        find_line(gradient_sums, rows, self.scale, self.mean, self.inv_std, *line, False)
        kind = 0 if self.residual is None else 1 if dresidual is None else 2
        add_to_dx = dx is not None
        dx = dy if in_place else PixelMatrix(np.full(self.shape, np.nan) if dx is None else dx, self.margin)
        dr = PixelMatrix(np.full(self.shape, np.nan) if dresidual is None else dresidual, self.margin)
        outputs = *dx.arguments, *(dr.arguments if kind else (empty(), 0))
        mask = self.relu, from_output
        batch_norm_backward(
            *dy.arguments, *x, *y, self.scale, self.shift, *line, *outputs, *size, *mask, add_to_dx, kind
        )
        dx.assert_guarded()
        dr.assert_guarded()
        return dx.values, dgamma, dbeta, dr.values if kind else None


def gradient_bound(layer, dz, dtype=np.float64):
    """Bound the rounding error of dx, element by element.

    dx = a (dz - mean(dz) - xhat mean(dz xhat)), computed as a dz + b x + c. Each of the sums has `rows` terms; x and
    the mean enter unreduced, so a term with xhat is as large as (|x| + |mean|) inv_std. Thirty further roundings cover
    the mean's and M2's own, the coefficients and the last pass.
    """
    sizes = (np.abs(layer.x.values) + np.abs(layer.mean)) * layer.inv_std
    terms = np.abs(dz) + np.abs(dz).mean(axis=0) + sizes * (np.abs(dz) * sizes).mean(axis=0)
    return rounding(3 * len(dz) + 30, dtype) * np.abs(layer.scale) * terms


def drawn(shape, seed, offset=0.0, spread=1.0):
    """Return x, gamma, beta, residual and dy of a layer."""
    rng = np.random.default_rng(seed)
    x = offset + spread * rng.standard_normal(shape)
    gamma, beta = rng.choice([-1, 1], shape[1]) * rng.uniform(0.5, 2, shape[1]), rng.standard_normal(shape[1])
    return SimpleNamespace(
        x=x, gamma=gamma, beta=beta, residual=rng.standard_normal(shape), dy=rng.standard_normal(shape)
    )
