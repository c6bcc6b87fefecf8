"""The settings that come with the package, where they differ from `RunConfig`'s own defaults.

`RunConfig`'s defaults are the sources' common settings for CIFAR-10: SGD with momentum 0.9, learning rate 0.01 times
0.2 every 60 of 200 epochs, batches of 128. A model or a data set that wants others says so here.
"""

from typing import Any

MODEL_RECIPES: dict[str, dict[str, Any]] = {
    "alexnet": {"epochs": 100, "step_size": 30, "gamma": 0.1},
    "lenet5": {
        "batch_size": 32,
        "epochs": 10,
        "lr": 0.001,
        "momentum": 0.0,
        "schedule": "constant",
        "augmentation": False,
    },
}

DATASET_RECIPES: dict[str, dict[str, Any]] = {
    # A mirrored digit is another one, or none.
    "mnist": {"flip": False},
    "emnist": {"flip": False},
    # Short: it shows on two cores within minutes that a network learns. Small batches and no dropout take VGG-16, which
    # has no batch norm, off chance in the first epoch.
    "synthetic": {
        "limit_train": 5000,
        "limit_test": 1000,
        "batch_size": 32,
        "epochs": 4,
        "lr": 0.01,
        "momentum": 0.9,
        "schedule": "cosine",
        "augmentation": False,
        "dropout": 0.0,
    },
}

SHORT: dict[str, Any] = {
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "decay_all": False,
    "label_smoothing": 0.1,
    "schedule": "one-cycle",
    "cutout": 8,
}
"""For training CIFAR-10 in tens of epochs; each network adds its rate and its epochs (``configs/NAME_short.py``).

One cycle of the rate (Smith and Topin, arXiv:1708.07120) with Nesterov's momentum; weight decay spares biases and batch
norm; labels are smoothed; images are cropped, mirrored and cut out (DeVries and Taylor, arXiv:1708.04552).
"""


def recipe(model: str, dataset: str | None) -> dict[str, Any]:
    """Return the settings in which a run of this model on this data set differs from `RunConfig`'s defaults.

    Parameters
    ----------
    model : str
        Any name; one without a recipe of its own has the common one.
    dataset : str or None
        None while the data set is not chosen yet.
    """
    return MODEL_RECIPES.get(model, {}) | DATASET_RECIPES.get(dataset or "", {})
