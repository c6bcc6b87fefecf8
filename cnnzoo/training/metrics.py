"""Loss and accuracy over many batches."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnnzoo.data.batches import Batches
from cnnzoo.graph.network import Network
from cnnzoo.kernels.cross_entropy import cross_entropy_loss
from cnnzoo.training.engine import Engine

_MOST_MISTAKES = 24
_NORMAL_QUANTILE = 1.959963984540054  # 0.975: 95% of a normal distribution lie within so many deviations


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image that was taken for another class.

    Attributes
    ----------
    index : int
        The image's place in its split.
    label, predicted : int
        Its class, and the one of its largest logit.
    probability : float
        What the network gave to `predicted`, 0 to 1.
    """

    index: int
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """How well a network did on some images.

    Attributes
    ----------
    loss : float
        Cross-entropy in nats, mean over the images.
    confusion : int64[classes, classes]
        Images by their class (row) and the class of their largest logit (column); of equal logits, the first counts.
    top5_accuracy : float
        Share of the images whose class is among the five largest logits, 0 to 1.
    mistakes : tuple of Mistake
        The worst ones, those that the network was surest of first; at most 24, and none where they were not asked for.
    """

    loss: float
    confusion: np.ndarray
    top5_accuracy: float
    mistakes: tuple[Mistake, ...] = ()

    @property
    def images(self) -> int:
        """How many they were."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the images whose largest logit is their class (top-1), 0 to 1."""
        return int(self.confusion.trace()) / self.images

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% confidence interval of the accuracy: Wilson's score interval."""
        return wilson_interval(int(self.confusion.trace()), self.images)

    @property
    def class_accuracies(self) -> list[float | None]:
        """Share of each class's images that were recognized (recall); None for a class without images."""
        counts = zip(self.confusion.diagonal().tolist(), self.confusion.sum(axis=1).tolist(), strict=True)
        return [hits / images if images else None for hits, images in counts]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; `classes` names the classes in order."""
        low, high = self.accuracy_interval
        supports = self.confusion.sum(axis=1).tolist()
        rows = zip(classes, supports, self.class_accuracies, strict=True)
        mistakes = [
            {
                "index": m.index,
                "class": classes[m.label],
                "taken_for": classes[m.predicted],
                "probability": m.probability,
            }
            for m in self.mistakes
        ]
        return {
            "images": self.images,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "accuracy_interval": {"method": "Wilson score", "level": 0.95, "low": low, "high": high},
            "top5_accuracy": self.top5_accuracy,
            "classes": [{"name": name, "images": n, "accuracy": accuracy} for name, n, accuracy in rows],
            "confusion": self.confusion.tolist(),
            "worst_mistakes": mistakes,
        }


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion (Wilson 1927, "Probable inference, the law of succession").

    Unlike the normal approximation it stays within 0 and 1 and keeps its level near them.

    Parameters
    ----------
    hits, trials : int
        0 <= hits <= trials, trials >= 1.

    Returns
    -------
    low, high : float
    """
    share, z2 = hits / trials, _NORMAL_QUANTILE**2 / trials
    center = (share + z2 / 2) / (1 + z2)
    half = _NORMAL_QUANTILE / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    # Rounding must not put the end of a range that has none beyond a proportion's.
    return max(0.0, center - half) if hits else 0.0, min(1.0, center + half) if hits < trials else 1.0


class Tally:
    """Adds up `Metrics` batch by batch.

    Attributes
    ----------
    sums : ndarray
        All that is counted, float64, in which whole numbers are exact: images, losses, labels among the five largest
        logits, and the confusion matrix. Tallies of other images may be added to it.
    """

    def __init__(self, num_classes: int) -> None:
        self.sums = np.zeros(3 + num_classes**2)
        self._confusion = self.sums[3:].reshape(num_classes, num_classes)

    @property
    def images(self) -> int:
        """Those counted so far."""
        return int(self.sums[0])

    @property
    def total_loss(self) -> float:
        """The sum of the images' losses."""
        return float(self.sums[1])

    def add(self, loss: float, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch: its mean loss, logits float[n, classes], labels int64[n].

        Of labels that are probabilities, float[n, classes], the most probable class counts.
        """
        if labels.ndim == 2:
            labels = labels.argmax(axis=1)
        ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        top5_hits = np.count_nonzero(ranking == labels[:, None])
        self.sums[:3] += np.array([len(labels), loss * len(labels), top5_hits])
        np.add.at(self._confusion, (labels, ranking[:, 0]), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return what was counted as plain values that JSON can hold."""
        loss, top5_hits = self.sums[1:3].tolist()
        confusion = self._confusion.astype(np.int64).tolist()
        return {"images": self.images, "loss": loss, "top5_hits": int(top5_hits), "confusion": confusion}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Tally":
        """Return the tally that `to_dict` described."""
        tally = cls(len(values["confusion"]))
        tally.sums[:3] = values["images"], values["loss"], values["top5_hits"]
        tally._confusion[:] = values["confusion"]
        return tally

    @property
    def metrics(self) -> Metrics:
        """What was counted so far, at least one image."""
        images, loss, top5_hits = self.sums[:3].tolist()
        return Metrics(loss=loss / images, confusion=self._confusion.astype(np.int64), top5_accuracy=top5_hits / images)


def evaluate(
    net: Network, batches: Batches, on_batch: Callable[[Tally], None] = lambda tally: None, engine: Engine | None = None
) -> Metrics:
    """Return how well a network does on all images of `batches`, in inference mode.

    Parameters
    ----------
    net : Network
    batches : Batches
        Not shuffled, so that no image is left out.
    on_batch : callable
        Called after each batch with what was counted so far.
    engine : Engine or None
        Of the ranks that share the batches. None: this process alone.
    """
    engine = engine or Engine()
    tally, mistakes = Tally(net.num_classes), list[Mistake]()
    for index in range(batches.num_batches):
        batch = Tally(net.num_classes)
        indices = batches.batch_indices(0, index)
        if indices.size:  # a small last batch may not reach all ranks
            images, labels = batches.extract_batch(0, index)
            logits = net.forward(images, training=False)
            mistakes = _worst([*mistakes, *_find_mistakes(logits, labels, indices)])
            batch.add(cross_entropy_loss(logits, labels), logits, labels)
        engine.add_up(batch.sums)
        tally.sums += batch.sums
        on_batch(tally)
    everywhere = [mistake for found in engine.collect(mistakes) for mistake in found]
    return replace(tally.metrics, mistakes=tuple(_worst(everywhere)))


def _worst(mistakes: list[Mistake]) -> list[Mistake]:
    return heapq.nlargest(_MOST_MISTAKES, mistakes, key=lambda mistake: mistake.probability)


def _find_mistakes(logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> list[Mistake]:
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    with np.errstate(over="ignore", invalid="ignore"):  # logits that are not finite: the loss tells of them
        differences = np.exp(logits[wrong].astype(np.float64) - logits[wrong, predicted[wrong], None])
        probabilities = 1 / differences.sum(axis=1)
    columns = (indices[wrong], labels[wrong], predicted[wrong], probabilities)
    return [
        Mistake(index=index, label=label, predicted=guess, probability=probability)
        for index, label, guess, probability in zip(*(column.tolist() for column in columns), strict=True)
    ]
