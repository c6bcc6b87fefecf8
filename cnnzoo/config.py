"""The whole of a run as one frozen object.

A setting has one name everywhere: ``RunConfig(batch_size=64)``, ``--batch-size 64``, ``"batch_size": 64`` in a run's
config.json. What is not said is filled in from the recipe of the model and the data set (`cnnzoo.recipes`), and then
from the defaults below.
"""

import dataclasses
import functools
import os
import re
import runpy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnzoo.errors import ConfigError, suggest
from cnnzoo.recipes import recipe
from cnnzoo.settings import UNSAID, Setting, declare, describe_settings

_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_BUDGET = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in "dhms"))
_UNITS = (86400, 3600, 60, 1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a training run.

    Raises
    ------
    ConfigError
        A value of another type or out of its range, or values that contradict each other.
    """

    model: str = declare("model", "network to train")
    dropout: float | None = declare(
        "model", "probability of dropping a value; none: the network's own", None, minimum=0, below=1
    )
    classifier_width: int | None = declare(
        "model", "features of VGG's hidden layers; none: 512", None, minimum=1, below=2**31
    )
    growth_rate: int | None = declare(
        "model", "channels that a layer of DenseNet adds; none: 32", None, minimum=1, below=2**31
    )
    compression: float | None = declare(
        "model", "share of its channels that a transition of DenseNet keeps; none: 0.5", None, minimum=0
    )
    width_multiplier: float | None = declare(
        "model", "share of its channels that each layer of MobileNet keeps; none: 1", None, minimum=0
    )
    stem_stride: int | None = declare(
        "model", "stride of MobileNet's first convolution; none: 1", None, minimum=1, below=2**31
    )
    dtype: str = declare("model", "type of activations and weights", "float32", choices=("float32", "float64"))
    algorithm: str | None = declare(
        "model",
        "of convolutions, wherever it can compute them; none: the fastest",
        None,
        choices=("im2col", "winograd", "dense", "depthwise"),
    )
    tune: bool = declare(
        "model", "choose the algorithms of convolutions by measurement, which the cache keeps for this machine", False
    )
    memory: str = declare(
        "model",
        "fast: keep what backward reads, but for what takes next to no time to compute again; "
        "lean: compute convolutions again too, up to a fifth of a step's time",
        "fast",
        choices=("fast", "lean"),
    )
    storage: str | None = declare(
        "model",
        "type of activations while they wait for backward, which rounds them; none: that of dtype",
        None,
        choices=("bfloat16", "float16"),
    )
    init_from: str | None = declare(
        "model", "weights to start from: a safetensors file, or a folder of hexadecimal files", None
    )

    dataset: str | None = declare("data", "data set; none: CIFAR-10 where it is found, else synthetic", None)
    emnist_split: str = declare(
        "data", "split of EMNIST: balanced, letters, digits, byclass, bymerge or mnist", "balanced"
    )
    data_dir: str | None = declare("data", "folder in which the data set lies; none: the default place", None)
    limit_train: int | None = declare("data", "train on this many images", None, minimum=1, below=2**31)
    validation: int = declare(
        "data",
        "training images held out to choose the best epoch, a tenth of a small set where that is less; "
        "0: train on all, the last epoch counts",
        5000,
        minimum=0,
        below=2**31,
    )
    limit_test: int | None = declare("data", "test on this many images", None, minimum=1, below=2**31)
    normalization: str | None = declare(
        "data", "statistics to normalize by, as imagenet; none: the data set's own", None
    )
    augmentation: bool = declare("data", "change training images at random, as the settings below say", True)
    crop_padding: int = declare(
        "data", "zeros around an image before its random crop, in pixels", 4, minimum=0, below=1024
    )
    flip: bool = declare("data", "mirror half of the training images", True)
    cutout: int = declare("data", "side of the square that is cut out of an image, in pixels", 0, minimum=0, below=1024)
    color_jitter: float = declare(
        "data", "largest change of brightness, contrast and saturation, as a share", 0.0, minimum=0, below=1
    )
    mixup: float = declare(
        "data", "mix images and labels in pairs, by shares from Beta(mixup, mixup)", 0.0, minimum=0, below=2
    )

    batch_size: int = declare("optimization", "images a batch, of each rank", 128, minimum=1, below=2**31)
    accumulation: int = declare(
        "optimization", "batches a step, by the mean of all their images", 1, minimum=1, below=2**31
    )
    epochs: int = declare("optimization", "passes over the training images", 200, minimum=1, below=2**31)
    optimizer: str = declare(
        "optimization", "sgd, or adamw, which wants a learning rate of about 0.001", "sgd", choices=("sgd", "adamw")
    )
    lr: float = declare("optimization", "learning rate at the start, or at the peak of one-cycle", 0.01, minimum=0)
    momentum: float = declare("optimization", "momentum of SGD", 0.9, minimum=0, below=1)
    nesterov: bool = declare("optimization", "Nesterov's form of momentum", False)
    momentum_form: str = declare(
        "optimization",
        "pytorch: v = m v + g, w -= lr v; sources: v = m v - lr g, w += v",
        "pytorch",
        choices=("pytorch", "sources"),
    )
    beta1: float = declare("optimization", "what AdamW's mean of gradients keeps a step", 0.9, minimum=0, below=1)
    beta2: float = declare("optimization", "what AdamW's mean of squares keeps a step", 0.999, minimum=0, below=1)
    epsilon: float = declare("optimization", "added to the root of AdamW's mean square", 1e-8, minimum=1e-30)
    weight_decay: float = declare(
        "optimization", "times the weight, added to the gradient (adamw: decoupled)", 0.0, minimum=0
    )
    decay_all: bool = declare("optimization", "weight decay for biases and batch norm too", True)
    clip_norm: float | None = declare(
        "optimization", "largest norm of all gradients together; longer ones are scaled to it", None, minimum=1e-30
    )
    ema_decay: float | None = declare(
        "optimization",
        "what the running average of the weights keeps a step, such as 0.999; evaluation and the final weights use it",
        None,
        minimum=0,
        below=1,
    )
    label_smoothing: float = declare(
        "optimization", "share of the target spread over all classes", 0.0, minimum=0, below=1
    )

    schedule: str = declare(
        "schedule",
        "learning rate over the run",
        "step",
        choices=("constant", "step", "multi-step", "exponential", "cosine", "warm-restarts", "one-cycle"),
    )
    warmup_epochs: float = declare(
        "schedule", "epochs over which the rate rises to the schedule's start, before it", 0.0, minimum=0, below=2**31
    )
    warmup_start: float = declare("schedule", "share of the rate at which warm-up starts", 0.01, minimum=0, below=1)
    step_size: int = declare("schedule", "epochs between two steps of the step schedule", 60, minimum=1, below=2**31)
    milestones: tuple[int, ...] = declare(
        "schedule", "epochs after which the multi-step schedule steps, as 60,120,160", (), minimum=1, below=2**31
    )
    gamma: float = declare("schedule", "factor of a step, or of an epoch of the exponential schedule", 0.2, minimum=0)
    min_factor: float = declare(
        "schedule", "share of the rate at which cosine and warm restarts end", 0.0, minimum=0, below=1
    )
    restart_epochs: int = declare("schedule", "epochs of the first cycle of warm restarts", 10, minimum=1, below=2**31)
    restart_factor: int = declare(
        "schedule", "length of a cycle of warm restarts over that of the one before", 2, minimum=1, below=2**31
    )
    pct_start: float = declare(
        "schedule", "share of one-cycle's steps in which the rate rises", 0.3, minimum=0, below=1
    )
    div_factor: float = declare("schedule", "one-cycle starts at the rate over this", 25.0, minimum=1)
    final_div_factor: float = declare("schedule", "one-cycle ends at its start over this", 1e4, minimum=1)
    base_momentum: float | None = declare(
        "schedule",
        "momentum, or AdamW's beta1, at one-cycle's peak; falls to it and rises again; none: stays as it is",
        None,
        minimum=0,
        below=1,
    )

    distributed: str = declare(
        "distributed", "train on several processes, which mpiexec or srun starts", "none", choices=("none", "mpi")
    )
    ranks: int | None = declare(
        "distributed",
        "processes that the settings count on: a step takes batch_size images of each; none: those that a run starts "
        "with, however many go on with it",
        None,
        minimum=1,
        below=2**20,
    )
    scale_lr: bool = declare(
        "distributed",
        "multiply lr by ranks, after a warm-up from lr over warmup_epochs; where they are 0, over 5, or a quarter of a "
        "short run",
        False,
    )
    sync_batchnorm: bool = declare("distributed", "batch norm by the statistics of all ranks' images together", False)
    bucket_mb: float = declare(
        "distributed", "gradients added up in one message, in MB, at most", 25.0, minimum=1e-3, below=2000
    )

    seed: int = declare("run", "of weights, order, augmentation and dropout", 0, minimum=0, below=2**63)
    threads: int | None = declare("run", "threads to compute with; none: one a core", None, minimum=1, below=1025)
    output_dir: str = declare("run", "folder in which the run makes its own", "runs")
    budget: str | None = declare(
        "run", "time to run for, as 6h or 1h30m: chooses the epochs, and stretches the schedule to them", None
    )
    tensorboard: bool = declare("run", "write event files for TensorBoard, by tensorboardX", False)
    checkpoint_epochs: int = declare("run", "epochs between two checkpoints to resume from", 1, minimum=1, below=2**31)
    checkpoint_minutes: float | None = declare(
        "run", "minutes after which one is made within an epoch too", 10.0, minimum=0
    )
    checkpoint_keep: int | None = declare(
        "run", "epochs between two checkpoints that are kept to the end", 20, minimum=1, below=2**31
    )

    def __post_init__(self) -> None:
        settings = list_settings()
        said = frozenset(name for name in settings if getattr(self, name) is not UNSAID)
        # Not a field: two runs with the same settings are the same, whoever said them.
        object.__setattr__(self, "_said", said)
        for name in ("model", "dataset"):  # they choose the recipe
            if name in said:
                self._set(name, settings[name])
        chosen = recipe(self.model, self.dataset if "dataset" in said else None)
        for name, setting in settings.items():
            if name not in said:
                object.__setattr__(self, name, chosen.get(name, setting.default))
            self._set(name, setting)
        if self.tune and self.algorithm is not None:
            raise ConfigError(f"tune: expected no algorithm with it, got {self.algorithm}")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: expected a momentum above 0 with it, got 0")
        base, top = self.base_momentum, self.top_momentum
        if base is not None and base > top:
            raise ConfigError(f"base_momentum: expected at most the {top:g} that it falls from, got {base:g}")
        if self.storage is not None and self.dtype != "float32":
            raise ConfigError(f"storage: expected dtype float32 with {self.storage}, got {self.dtype}")
        if self.schedule == "multi-step" and not self.milestones:
            raise ConfigError("milestones: expected one or more for the multi-step schedule, got none")
        if self.budget is not None and not self.budget_seconds:
            raise ConfigError(f"budget: expected a time such as 6h, 90m or 1h30m, got {self.budget!r}")

    def _set(self, name: str, setting: Setting) -> None:
        """Replace a field's value by the checked one."""
        value = getattr(self, name)
        try:
            object.__setattr__(self, name, setting.convert(value))
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{name}: expected {setting.expected}, got {value!r}") from None

    @property
    def said(self) -> frozenset[str]:
        """Names of the settings that were given, not filled in."""
        return self._said  # type: ignore[attr-defined]

    @property
    def top_momentum(self) -> float:
        """SGD's momentum or AdamW's beta1, where no schedule lowers it."""
        return self.beta1 if self.optimizer == "adamw" else self.momentum

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds; None where there is none, or it is no time."""
        match = None if self.budget is None else _BUDGET.fullmatch(self.budget)
        return sum(float(n or 0) * unit for n, unit in zip(match.groups(), _UNITS, strict=True)) if match else None

    @property
    def images_per_batch(self) -> int:
        """Images that all ranks together take for a batch."""
        return self.batch_size * (self.ranks or 1)

    @property
    def model_options(self) -> dict[str, Any]:
        """The settings of the network alone that are not None, for `create_model`."""
        names = ("classifier_width", "growth_rate", "compression", "width_multiplier", "stem_stride")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def network_settings(self) -> dict[str, Any]:
        """All settings of the network but its name and the weights to start from, for `create_model`."""
        names = ("seed", "dtype", "dropout", "algorithm", "memory", "storage")
        return {name: getattr(self, name) for name in names} | self.model_options

    def replace(self, **changes: Any) -> "RunConfig":
        """Return a run with some settings said anew; those never said follow the recipe of the new model and data set.

        Raises
        ------
        ConfigError
            As for a new run, or a name that is no setting.
        """
        return RunConfig.from_dict({name: getattr(self, name) for name in self.said} | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return the run that a mapping from names to values describes, as `to_dict` makes it.

        Raises
        ------
        ConfigError
            As for a new run, a name that is no setting, or no model.
        """
        for name in values:
            if name not in list_settings():
                raise ConfigError(f"{name}: no such setting{suggest(name, list_settings())}")
        if "model" not in values:
            raise ConfigError("model: expected a network's name, got none")
        return cls(**values)


@functools.cache
def list_settings() -> dict[str, Setting]:
    """Return what is known of each field of `RunConfig`, in the order of the fields."""
    return describe_settings(RunConfig)


def load_config(path: str | os.PathLike[str]) -> RunConfig:
    """Run a Python file and return the `RunConfig` that it calls ``config``.

    Raises
    ------
    ConfigError
        There is no such file, it raises, or it leaves no `RunConfig` by that name.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: expected a config file, got {'a folder' if path.is_dir() else 'no such file'}")
    try:
        names = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else f"{path}"
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{place}: {kind}{' '.join(str(error).split())}") from error
    if not isinstance(names.get("config"), RunConfig):
        got = f"a {type(names['config']).__name__}" if "config" in names else "none"
        raise ConfigError(f"{path}: expected a RunConfig called config, got {got}")
    return names["config"]
