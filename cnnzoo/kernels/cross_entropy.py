"""Softmax cross-entropy, on logits that are small enough for plain NumPy."""

import numpy as np

from cnnzoo.errors import ConfigError, ModelError


def _check(logits, labels, label_smoothing):
    if logits.ndim != 2 or 0 in logits.shape or logits.dtype not in (np.float32, np.float64):
        raise ModelError(f"logits: expected float32 or float64 [N, classes], got {logits.dtype} {list(logits.shape)}")
    if labels.dtype.kind == "f" and labels.shape == logits.shape:
        if not (labels.min() >= 0 and np.allclose(labels.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-5)):
            raise ModelError("labels: expected probabilities that add up to 1 for each image, got others")
    elif labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        expected = f"{len(logits)} integers" if labels.ndim < 2 else f"probabilities {list(logits.shape)}"
        raise ModelError(f"labels: expected {expected}, got {labels.dtype} {list(labels.shape)}")
    elif labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ModelError(
            f"labels: expected values from 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ConfigError(f"label_smoothing: expected a value from 0 to 1, got {label_smoothing}")


def _make_targets(labels, classes):
    """Return the probability of each class, float64 [N, classes]."""
    if labels.ndim == 2:
        return labels.astype(np.float64)
    targets = np.zeros((len(labels), classes))
    targets[np.arange(len(labels)), labels] = 1
    return targets


def _forward(logits, targets, label_smoothing):
    """Return the loss, and the numerators [N, classes] and denominators [N, 1] of the softmax, in float64."""
    # Infinite logits give NaN, as in PyTorch, and no warning.
    with np.errstate(invalid="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=1, keepdims=True)
        log_softmax = shifted - np.log(sums)
        # A class of probability 0 adds nothing, however impossible the network finds it.
        losses = -(targets * np.where(targets == 0, 0, log_softmax)).sum(axis=1)
        if label_smoothing:
            losses = (1 - label_smoothing) * losses - label_smoothing * log_softmax.mean(axis=1)
    return float(losses.mean()), exponentials, sums


def cross_entropy_loss(logits: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0) -> float:
    """Return the loss of `cross_entropy` alone, with its arguments and errors."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    _check(logits, labels, label_smoothing)
    return _forward(logits, _make_targets(labels, logits.shape[1]), label_smoothing)[0]


def cross_entropy(logits: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0) -> tuple[float, np.ndarray]:
    """Return the softmax cross-entropy, mean over the batch, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : numpy.ndarray
        float32 or float64 [N, classes].
    labels : numpy.ndarray
        Integers [N], from 0 to classes - 1; or float32 or float64 [N, classes], the probability of each class.
    label_smoothing : float
        The part of each target that is spread evenly over all classes (Szegedy et al., "Rethinking the Inception
        Architecture for Computer Vision", CVPR 2016, section 7), from 0 to 1.

    Returns
    -------
    loss : float
        In nats; NaN if a logit is NaN.
    dlogits : numpy.ndarray
        (softmax(logits) - target) / N, shape and dtype of `logits`.

    Raises
    ------
    ModelError
        The logits' or labels' shape or dtype does not fit, or a label is out of range.
    ConfigError
        `label_smoothing` is out of range.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    _check(logits, labels, label_smoothing)
    images, classes = logits.shape
    targets = _make_targets(labels, classes)
    loss, exponentials, sums = _forward(logits, targets, label_smoothing)
    dlogits = exponentials / sums - label_smoothing / classes - (1 - label_smoothing) * targets
    return loss, (dlogits / images).astype(logits.dtype)
