"""The training loop."""

import json
import math
import time
from importlib.metadata import version
from typing import Literal

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.data import Batches, choose_dataset, load_dataset
from cnnzoo.errors import CnnzooError, StateError
from cnnzoo.interop.model_file import ModelDescription, save_model
from cnnzoo.interop.weights import load_weights
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.models import create_model
from cnnzoo.threads import set_num_threads
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Metrics, Tally, evaluate
from cnnzoo.training.observer import Observer
from cnnzoo.training.optimizers import SGD
from cnnzoo.training.run_folder import RunFolder
from cnnzoo.training.schedules import learning_rate
from cnnzoo.training.splits import make_batches


class Trainer:
    """Trains one network as a `RunConfig` says.

    Making one loads the data, sets the threads and makes the network; `fit` trains it.

    Parameters
    ----------
    config : RunConfig
    observer : Observer or None
        Told what happens while it happens.

    Attributes
    ----------
    config : RunConfig
        The data set's name filled in, and with it the recipe's settings.
    dataset : Dataset
    train_batches, test_batches : Batches
    validation_batches : Batches or None
        Of the training images held out; None where none are.
    net : Network
        Usable at any time, after an interrupt too.
    optimizer : SGD
    history : History or None
        What the run did so far; None before `fit`.

    Raises
    ------
    ConfigError, ModelError
        Settings out of range or that do not fit each other, no such network or data set.
    DataError
        The data set is not there, or damaged.
    WeightsError
        `init_from` is not there, or does not fit the network.
    """

    def __init__(self, config: RunConfig, observer: Observer | None = None) -> None:
        if config.threads is not None:
            set_num_threads(config.threads)
        name, data_dir = choose_dataset(config.dataset, config.data_dir)
        self.config = config = config.replace(dataset=name)
        self.observer = observer or Observer()
        self.dataset = load_dataset(
            name,
            data_dir,
            limit_train=config.limit_train,
            limit_test=config.limit_test,
            normalization=config.normalization,
            emnist_split=config.emnist_split,
        )
        self.train_batches, self.validation_batches, self.test_batches = make_batches(config, self.dataset)
        self.net = create_model(
            config.model,
            num_classes=self.dataset.num_classes,
            seed=config.seed,
            image_shape=self.dataset.image_shape,
            dtype=config.dtype,
            dropout=config.dropout,
            **config.model_options,
        )
        if config.init_from is not None:
            self.net.load_state_dict(load_weights(config.init_from))
        self.optimizer = SGD(
            self.net, config.lr, config.momentum, config.weight_decay, config.nesterov, config.momentum_form
        )
        self.history: History | None = None

    def fit(self) -> History:
        """Train for the run's epochs, test the weights of the best one, and write the run's folder.

        The network has those weights afterwards: see `History.best`. The test images are used once, for them.

        Returns
        -------
        History

        Raises
        ------
        CnnzooError
            The loss is no longer finite; the message names the epoch and the step. The parameters are those before it,
            the running statistics have seen the batch.
        StateError
            Called a second time.
        OSError
            The run's folder cannot be written.
        """
        if self.history is not None:
            raise StateError("fit: expected a trainer that has not run, got one that has; make a new one")
        folder = RunFolder(self.config, self.dataset)
        self.history = history = History(config=self.config, folder=folder.path)
        self.observer.run_started(self, history)
        best_weights: dict[str, np.ndarray] = {}
        for epoch in range(self.config.epochs):
            record = self._run_epoch(epoch)
            folder.append(record)
            history.epochs.append(record)
            if self.validation_batches is not None and history.best is record:
                best_weights = self.net.state_dict()
            self.observer.epoch_done(record)
        if history.best is not history.epochs[-1]:
            self.net.load_state_dict(best_weights)
        history.test = self._evaluate("test", self.test_batches, "the test")
        folder.write_test(history.test.to_dict(self.dataset.classes))
        save_model(folder.weights_path, self.net, self._describe_model(history))
        self.observer.run_done(history)
        return history

    def _run_epoch(self, epoch: int) -> EpochRecord:
        """Train on all training images, then validate; `epoch` counts from 0."""
        self.observer.epoch_started(epoch + 1)
        start = time.perf_counter()
        train = self._train(epoch)
        trained = time.perf_counter()
        loss = accuracy = None
        if self.validation_batches is not None:
            validation = self._evaluate("validation", self.validation_batches, f"epoch {epoch + 1}")
            loss, accuracy = validation.loss, validation.accuracy
        return EpochRecord(
            epoch=epoch + 1,
            lr=learning_rate(self.config, epoch),
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            validation_loss=loss,
            validation_accuracy=accuracy,
            seconds=trained - start,
            validation_seconds=time.perf_counter() - trained,
            images_per_second=train.images / (trained - start),
        )

    def _evaluate(self, split: Literal["validation", "test"], batches: Batches, when: str) -> Metrics:
        self.observer.evaluation_started(split)
        metrics = evaluate(self.net, batches, self.observer.evaluation_batch_done)
        if not math.isfinite(metrics.loss):
            raise CnnzooError(f"{when}: expected a finite loss on the {split} images, got {metrics.loss}")
        return metrics

    def _train(self, epoch: int) -> Metrics:
        """Take a step for each batch of an epoch."""
        tally = Tally(self.dataset.num_classes)
        for index, (images, labels) in enumerate(self.train_batches.epoch(epoch)):
            self.optimizer.lr = learning_rate(self.config, epoch + index / self.train_batches.num_batches)
            logits = self.net.forward(images, training=True)
            loss, dlogits = cross_entropy(logits, labels, self.config.label_smoothing)
            if not math.isfinite(loss):
                raise CnnzooError(
                    f"epoch {epoch + 1}, step {index + 1}: expected a finite loss, got {loss} "
                    f"at a learning rate of {self.optimizer.lr:g}; a lower one may help"
                )
            self.net.backward(dlogits)
            self.optimizer.step()
            tally.add(loss, logits, labels)
            self.observer.step_done(tally)
        return tally.metrics

    def _describe_model(self, history: History) -> ModelDescription:
        """Return what is needed to use the weights without the rest of the folder."""
        best, test = history.best, history.test
        assert test is not None
        return ModelDescription(
            config=self.config,
            image_shape=self.dataset.image_shape,
            classes=self.dataset.classes,
            mean=self.dataset.mean,
            std=self.dataset.std,
            notes={
                "cnnzoo": version("cnnzoo"),
                "data": self.dataset.source,
                "epoch": str(best.epoch),
                "validation_loss": json.dumps(best.validation_loss),
                "validation_accuracy": json.dumps(best.validation_accuracy),
                "test_loss": json.dumps(test.loss),
                "test_accuracy": json.dumps(test.accuracy),
            },
        )
