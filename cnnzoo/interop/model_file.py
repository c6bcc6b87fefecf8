"""Weights that describe themselves: a safetensors file whose header says what is needed to use them.

The header's entries are texts: `model`, `image_shape`, `classes`, `mean`, `std` and `config` (the run's settings) as
JSON, and others that are only shown, such as `epoch` and `test_accuracy`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnnzoo.config import RunConfig, list_settings
from cnnzoo.errors import ConfigError, ModelError, WeightsError
from cnnzoo.graph.network import Network
from cnnzoo.interop.weights import load_described_weights, save_weights
from cnnzoo.models import create_model

# Where a run's folder has its weights: those that it ended with, else the best, else the newest so far.
_PLACES = ("final.safetensors", "checkpoints/best.safetensors", "checkpoints/last.safetensors")


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What is needed to use weights, and to know where they come from.

    Attributes
    ----------
    config : RunConfig
        Of the run that made them; names the model and its options.
    image_shape : tuple of int
        (channels, height, width).
    classes : tuple of str
        The name of each logit.
    mean, std : tuple of float, one for each channel
        By which pixels, scaled to 0..1, are normalized.
    notes : dict of str to str
        All else that the header says.
    """

    config: RunConfig
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: dict[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return the entries of the header."""
        plain = {
            "image_shape": self.image_shape,
            "classes": self.classes,
            "mean": self.mean,
            "std": self.std,
            "config": self.config.to_dict(),
        }
        return self.notes | {"model": self.config.model} | {name: json.dumps(value) for name, value in plain.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ModelDescription":
        """Return what a header says; settings that this version does not know are left out.

        Raises
        ------
        WeightsError
            An entry is missing, or says something that cannot be.
        """
        names = ("image_shape", "classes", "mean", "std", "config")
        if missing := [name for name in names if name not in metadata]:
            raise WeightsError(f"expected a header with {', '.join(names)}, as cnnzoo writes, found no {missing[0]}")
        try:
            plain = {name: json.loads(metadata[name]) for name in names}
            known = {name: value for name, value in plain["config"].items() if name in list_settings()}
            channels, height, width = map(int, plain["image_shape"])
            return cls(
                config=RunConfig.from_dict(known),
                image_shape=(channels, height, width),
                classes=tuple(map(str, plain["classes"])),
                mean=tuple(map(float, plain["mean"])),
                std=tuple(map(float, plain["std"])),
                notes={name: text for name, text in metadata.items() if name not in names and name != "model"},
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise WeightsError(f"expected a header as cnnzoo writes, found one that is not ({error})") from error

    def create_network(self) -> Network:
        """Return a network of this kind, with initial weights."""
        config = self.config
        return create_model(
            config.model,
            num_classes=len(self.classes),
            image_shape=self.image_shape,
            dtype=config.dtype,
            dropout=config.dropout,
            **config.model_options,
        )


def save_model(path: str | os.PathLike[str], net: Network, description: ModelDescription) -> None:
    """Write a network's weights with their description, atomically; errors as `save_weights`."""
    save_weights(path, net.state_dict(), description.to_metadata())


def find_model_file(path: str | os.PathLike[str]) -> Path:
    """Return the file meant by the path of a run's folder or of a file.

    Raises
    ------
    WeightsError
        There is nothing, or no weights in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise WeightsError(f"{path}: expected a run's folder or a safetensors file, found nothing")
        return path
    if (found := locate_weights(path)) == path:
        raise WeightsError(f"{path}: expected a run's folder with one of {', '.join(_PLACES)}, found none")
    return found


def locate_weights(path: str | os.PathLike[str]) -> Path:
    """Return the file of weights in a run's folder; of any other path, the path itself."""
    path = Path(path)
    return next((path / place for place in _PLACES if (path / place).is_file()), path)


def load_model(path: str | os.PathLike[str]) -> tuple[Network, ModelDescription]:
    """Read a network from a file that `save_model` wrote.

    Raises
    ------
    WeightsError
        There is no such file, it is damaged, does not describe itself, or its weights do not fit its description.
    """
    weights, metadata = load_described_weights(path)
    try:
        description = ModelDescription.from_metadata(metadata)
        net = description.create_network()
        net.load_state_dict(weights)
    except (ConfigError, ModelError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from error
    return net, description
