"""Loss and accuracy over many batches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnzoo.data.batches import Batches
from cnnzoo.graph.network import Network
from cnnzoo.kernels.cross_entropy import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How well a network did on some images.

    Attributes
    ----------
    loss : float
        Cross-entropy in nats, mean over the images.
    accuracy : float
        Share of the images whose largest logit is their class, 0 to 1.
    images : int
        How many they were.
    """

    loss: float
    accuracy: float
    images: int


class Tally:
    """Adds up `Metrics` batch by batch."""

    def __init__(self) -> None:
        self.images = 0
        self._loss = 0.0
        self._hits = 0

    def add(self, loss: float, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch: its mean loss, logits float[n, classes], labels int64[n]."""
        self.images += len(labels)
        self._loss += loss * len(labels)
        self._hits += int(np.count_nonzero(logits.argmax(axis=1) == labels))

    @property
    def metrics(self) -> Metrics:
        """What was counted so far, at least one image."""
        return Metrics(loss=self._loss / self.images, accuracy=self._hits / self.images, images=self.images)


def evaluate(net: Network, batches: Batches, on_batch: Callable[[Tally], None] = lambda tally: None) -> Metrics:
    """Return how well a network does on all images of `batches`, in inference mode.

    Parameters
    ----------
    net : Network
    batches : Batches
        Not shuffled, so that no image is left out.
    on_batch : callable
        Called after each batch with what was counted so far.
    """
    tally = Tally()
    for images, labels in batches.epoch(0):
        logits = net.forward(images, training=False)
        loss, _ = cross_entropy(logits, labels)
        tally.add(loss, logits, labels)
        on_batch(tally)
    return tally.metrics
