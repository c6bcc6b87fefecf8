"""Mean-squared error, on outputs that are small enough for plain NumPy."""

import numpy as np

from cnnzoo.errors import ModelError


def mean_squared_error(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean over all elements of (outputs - targets)^2, and its gradient with respect to the outputs.

    Parameters
    ----------
    outputs : numpy.ndarray
        float32 or float64, of any shape but an empty one.
    targets : numpy.ndarray
        Real numbers, of the outputs' shape.

    Returns
    -------
    loss : float
        NaN if an element is NaN.
    doutputs : numpy.ndarray
        2 (outputs - targets) / elements, shape and dtype of `outputs`.

    Raises
    ------
    ModelError
        The outputs' or targets' shape or dtype does not fit.
    """
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.size == 0 or outputs.dtype not in (np.float32, np.float64):
        raise ModelError(f"outputs: expected float32 or float64, not empty, got {outputs.dtype} {list(outputs.shape)}")
    if targets.shape != outputs.shape or targets.dtype.kind not in "fiu":
        raise ModelError(
            f"targets: expected real numbers {list(outputs.shape)}, got {targets.dtype} {list(targets.shape)}"
        )
    # Infinities give infinity or NaN, as in PyTorch, and no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        errors = outputs.astype(np.float64) - targets
        loss = float(np.mean(errors**2))
        return loss, (errors * (2 / errors.size)).astype(outputs.dtype)
