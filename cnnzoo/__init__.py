"""Train the classic convolutional networks on a CPU.

Everything below is imported when it is first asked for, so that ``import cnnzoo`` costs next to nothing and the number
of threads can be set before anything is compiled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnzoo.config import RunConfig
    from cnnzoo.kernels.cross_entropy import cross_entropy
    from cnnzoo.kernels.mean_squared_error import mean_squared_error
    from cnnzoo.models import create_model, list_models
    from cnnzoo.threads import set_num_threads
    from cnnzoo.training.optimizers import SGD, AdamW
    from cnnzoo.training.progress import Progress
    from cnnzoo.training.trainer import Trainer

    __version__: str

__all__ = [
    "SGD",
    "AdamW",
    "Progress",
    "RunConfig",
    "Trainer",
    "create_model",
    "cross_entropy",
    "list_models",
    "mean_squared_error",
    "set_num_threads",
]

_HOMES = {
    "AdamW": "cnnzoo.training.optimizers",
    "Progress": "cnnzoo.training.progress",
    "RunConfig": "cnnzoo.config",
    "SGD": "cnnzoo.training.optimizers",
    "Trainer": "cnnzoo.training.trainer",
    "create_model": "cnnzoo.models",
    "cross_entropy": "cnnzoo.kernels.cross_entropy",
    "list_models": "cnnzoo.models",
    "mean_squared_error": "cnnzoo.kernels.mean_squared_error",
    "set_num_threads": "cnnzoo.threads",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cnnzoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnzoo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
