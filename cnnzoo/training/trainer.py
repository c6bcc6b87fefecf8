"""The training loop."""

import contextlib
import math
import os
import time
from typing import Any, Literal

from cnnzoo.config import RunConfig
from cnnzoo.data import Batches, choose_dataset, load_dataset
from cnnzoo.errors import DivergenceError, StateError
from cnnzoo.graph.tuning import Tuning
from cnnzoo.memory import resident_memory
from cnnzoo.models import create_model
from cnnzoo.threads import set_num_threads
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.checkpoint import BEST, FOLDER, LAST, Header
from cnnzoo.training.engine import Engine, act_together, make_engine
from cnnzoo.training.environment import describe_environment
from cnnzoo.training.forecast import WORTH_MEASURING, Forecast, check_memory, measure_run
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Metrics, Tally, evaluate
from cnnzoo.training.observer import Observer, Observers
from cnnzoo.training.optimizers import make_optimizer
from cnnzoo.training.output import FolderOutput, Output
from cnnzoo.training.replicas import claim_for_all, count_ranks, find_fingerprint, load_on_root, unite_replicas
from cnnzoo.training.report import Reporter
from cnnzoo.training.resume import AUTO, Claim, continue_config
from cnnzoo.training.schedules import apply_schedule, learning_rate, stretch
from cnnzoo.training.splits import RunBatches, make_batches
from cnnzoo.training.state import Position, RunState
from cnnzoo.training.step import make_stepper
from cnnzoo.training.tensorboard import TensorBoard


class _Stop(Exception):
    """`Trainer.stop` was called, and what was under way is done."""


class Trainer:
    """Trains one network as a `RunConfig` says.

    Making one loads the data, sets the threads and makes the network; `fit` trains it.

    Parameters
    ----------
    config : RunConfig
    observer : Observer or None
        Told what happens while it happens.
    resume : path or None
        A checkpoint or the folder of a run to go on with; "auto": the newest unfinished run of the model and the data
        set in `config.output_dir`, or a new one where there is none. What `config` does not say comes from that run.
    engine : Engine or None
        Of the ranks that train together, each with a trainer of its own. None: the one that `config` names.

    Attributes
    ----------
    config : RunConfig
        The data set's name filled in, with it the recipe's settings, and the number of ranks.
    engine : Engine
    dataset : Dataset
    train_batches, test_batches : Batches
    validation_batches : Batches or None
        Of the training images held out; None where none are.
    net : Network
        Usable at any time, after an interrupt too.
    optimizer : Optimizer
    state : RunState
        All that changes while the run goes on.
    resume : str or None
        As given.
    resumed_from : Header or None
        Of the checkpoint that the run goes on from. Nobody else can have that run from here on.
    passed_over : list of str
        What is wrong with the runs that "auto" could not read.
    forecast : Forecast or None
        What the run will take; None before `plan` or `fit`.
    history : History or None
        What the run did so far; None before `fit`.

    Raises
    ------
    ConfigError, ModelError
        Settings out of range or that do not fit each other, no such network or data set, or other settings than those
        of the run to go on with.
    DataError
        The data set is not there, or damaged.
    WeightsError
        `init_from` or a checkpoint is not there, damaged, or does not fit the network.
    CheckpointError
        There is no checkpoint to go on from, it is not the newest, it is of a run on other data, or another process
        has the run.
    FinishedError
        The run to go on with has done all its epochs.
    """

    def __init__(
        self,
        config: RunConfig,
        observer: Observer | None = None,
        resume: str | os.PathLike[str] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or make_engine(config.distributed)
        writers = [Reporter(), *([TensorBoard()] if config.tensorboard else [])] if self.engine.is_root else []
        self.observer = Observers(*writers, *([] if observer is None else [observer]))
        self.resume = None if resume is None else os.fspath(resume)
        self._stop = False
        self.forecast: Forecast | None = None
        self.history: History | None = None
        self._begin(config)

    @act_together
    def _begin(self, config: RunConfig) -> None:
        """Set the threads, have the run that goes on to oneself, and prepare it."""
        threads = config.threads or self.engine.threads
        if threads:
            set_num_threads(threads)
        if self.resume is None or self.resume == AUTO:
            config = config.replace(dataset=choose_dataset(config.dataset, config.data_dir)[0])
        claim, self.passed_over = claim_for_all(self.engine, config, self.resume)
        self.resumed_from: Header | None = None if claim is None else claim.header
        self._lock = None if claim is None else claim.lock
        try:
            self._prepare(config, claim)
        except BaseException:
            if self._lock is not None:
                self._lock.close()
            raise

    def _prepare(self, config: RunConfig, claim: Claim | None) -> None:
        """Load the data and make the network, or take over the state that a checkpoint holds."""
        self._resident = resident_memory()  # all is imported, and nothing made
        if claim is not None:
            config, self._asked = continue_config(config, claim.header)
        else:
            self._asked = config = count_ranks(config, self.engine)
        self.config = config
        self.dataset = load_dataset(
            *choose_dataset(config.dataset, config.data_dir),
            limit_train=config.limit_train,
            limit_test=config.limit_test,
            normalization=config.normalization,
            emnist_split=config.emnist_split,
        )
        self._fingerprint = find_fingerprint(self.engine, self.dataset)
        splits = make_batches(config, self.dataset, (self.engine.rank, self.engine.size))
        self.train_batches, self.validation_batches, self.test_batches = splits
        self.net = create_model(
            config.model, self.dataset.num_classes, image_shape=self.dataset.image_shape, **config.network_settings
        )
        if config.init_from is not None and claim is None:
            load_on_root(self.engine, self.net, config.init_from)
        unite_replicas(self.engine, self.net, config.sync_batchnorm)
        self.optimizer = make_optimizer(config, self.net)
        self.state = RunState(
            net=self.net,
            optimizer=self.optimizer,
            average=None if config.ema_decay is None else WeightAverage(self.net, config.ema_decay),
            position=Position(tally=Tally(self.dataset.num_classes)),
        )
        self._started = time.time()
        if claim is not None:
            claim.restore(self.state, self._fingerprint, self.dataset.source)
            self._started = claim.header.values["started"]
            if self.state.position.batch == 0:
                self._keep_best()
        self._to_tune = self.config.tune and not self.net.algorithms()  # a checkpoint says what was chosen
        self._stepper = make_stepper(config, self.state, self.engine)

    def stop(self) -> None:
        """Let `fit` finish the step that is under way, save a checkpoint and return; may be called from anywhere."""
        self._stop = True

    @act_together
    def plan(self, measure: bool = True) -> Forecast:
        """Find out what the run will take, and choose the epochs that fit into a budget; `fit` does so where needed.

        With a budget the schedule is stretched to the epochs that fit, unless the run has begun. A few steps are
        measured and taken back: the run ends with the same bits.

        Parameters
        ----------
        measure : bool
            False: memory alone.

        Raises
        ------
        ConfigError
            The run takes more memory than is free, the message names the batch size that fits; or not one epoch fits
            into the budget.
        """
        if measure:
            self.observer.plan_started(self)
        splits = RunBatches(self.train_batches, self.validation_batches, self.test_batches)
        largest = max(batches.num_images for batches in splits if batches)
        self.forecast = check_memory(self.state, self.config, largest, self.engine)
        if self._to_tune:  # other algorithms take other memory
            self._tune()
            self.forecast = check_memory(self.state, self.config, largest, self.engine)
        left = (self.config.epochs - self.state.position.epoch) * self.steps_per_epoch
        if measure and (left >= WORTH_MEASURING or self.config.budget is not None):
            with contextlib.suppress(_Stop, DivergenceError):  # `fit` will come upon either again, and tell where
                run = (self.state, self.config, splits, self._take_step, self.engine)
                self.forecast = measure_run(self.forecast, *run)
        seconds = self.config.budget_seconds
        if seconds is not None and self.optimizer.steps == 0 and self.forecast.epoch_seconds is not None:
            self.config = stretch(self.config, self.forecast.fit_epochs(seconds))
        return self.forecast

    @act_together
    def fit(self) -> History:
        """Train for the run's epochs, test the weights of the best one, and write the run's folder.

        The network has those weights afterwards: see `History.best`. The test images are used once, for them. After
        `stop`, the history is that of the epochs so far, its `test` is None, and the run can be resumed.

        Returns
        -------
        History

        Raises
        ------
        DivergenceError
            The loss, a gradient or a weight is no longer finite; the message names the epoch, the step and the first
            layer where it appears. The network is as before the step, and so is the last checkpoint.
        StateError
            Called a second time.
        OSError
            The run's folder cannot be written.
        """
        if self.history is not None:
            raise StateError("fit: expected a trainer that has not run, got one that has; make a new one")
        if self.forecast is None:
            self.plan(measure=self.config.budget is not None)
        self._output = self._open_output()
        try:
            self.history = history = History(
                config=self.config, folder=self._output.path, epochs=self.state.epochs, resident_before=self._resident
            )
            self._output.save(LAST)
            self.observer.run_started(self, history)
            while self.state.position.epoch < self.config.epochs:
                self._run_epoch()
            self._finish()
            self.observer.run_done(history)
        except _Stop:
            if self.state.position.epoch < self.config.epochs:
                self._output.save(LAST)
        finally:
            self._output.close()
        return history

    def _open_output(self) -> Output:
        """Make the run's folder, or take over that of the run that goes on."""
        output = Output()
        if self.engine.is_root:
            constants = {"started": self._started, "data_sha256": self._fingerprint, "asked": self._asked.to_dict()}
            resumed = None if self.resumed_from is None else self.resumed_from.run_folder
            run = (self.config, self.dataset, self.state, self.environment, constants)
            output = FolderOutput(*run, resumed, self._lock)
        output.path = self.engine.from_root(lambda: output.path)
        return output

    @property
    def environment(self) -> dict[str, Any]:
        """What the run runs in, as environment.json has it."""
        algorithms = self.net.algorithms()
        return describe_environment(self.dataset, self._fingerprint, algorithms, self._resident, self.engine.members)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch; the last one may have fewer batches than the others."""
        return -(-self.train_batches.num_batches // self.config.accumulation)

    def _tune(self) -> None:
        """Choose the algorithms for full batches by measurement: rank 0 does so for all."""

        def progress(done: int, total: int) -> None:
            self.observer.tuning_advanced(done, total)
            if self._stop:
                raise _Stop

        def tune() -> Tuning | None:
            with contextlib.suppress(_Stop):  # `fit` will come upon it again
                return self.net.tune(self.train_batches.largest_share, progress)
            return None

        tuning = self.engine.from_root(tune)
        if tuning is not None:
            self.net.pin_algorithms(tuning.algorithms)
            self.observer.tuning_done(tuning)
            self._to_tune = False

    def _run_epoch(self) -> None:
        """Train on what is left of the epoch, validate, record it, and save what is due."""
        epoch = self.state.position.epoch
        self.observer.epoch_started(epoch + 1)
        self._train()
        start = time.perf_counter()
        loss = accuracy = None
        if self.validation_batches is not None:
            with self.state.chosen():
                validation = self._evaluate("validation", self.validation_batches, f"epoch {epoch + 1}")
            loss, accuracy = validation.loss, validation.accuracy
        position, train = self.state.position, self.state.position.tally.metrics
        record = EpochRecord(
            epoch=epoch + 1,
            lr=learning_rate(self.config, epoch * self.steps_per_epoch, self.steps_per_epoch),
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            validation_loss=loss,
            validation_accuracy=accuracy,
            largest_gradient_norm=position.largest_norm,
            clipped_steps=position.clipped_steps,
            seconds=position.seconds,
            validation_seconds=time.perf_counter() - start,
            images_per_second=train.images / position.seconds,
        )
        self._end_epoch(record)
        self.observer.epoch_done(record)

    def _end_epoch(self, record: EpochRecord) -> None:
        """Record an epoch and save what is due after it."""
        self._output.end_epoch(record, self.environment)
        self.state.epochs.append(record)
        self.state.position = Position(tally=Tally(self.dataset.num_classes), epoch=record.epoch)
        names, config = [], self.config
        if self.state.is_best:
            self.state.best_weights = None
            names.append(BEST)
        if config.checkpoint_keep is not None and record.epoch % config.checkpoint_keep == 0:
            names.append(f"epoch-{record.epoch:04}.safetensors")
        if record.epoch % config.checkpoint_epochs == 0 or record.epoch == config.epochs:
            names.append(LAST)  # after the others: resumed from it, the run lacks none of them
        self._output.save(*names)
        self._keep_best()

    def _train(self) -> None:
        """Take the steps that the epoch still has."""
        position, batches, size = self.state.position, self.train_batches, self.config.accumulation
        while position.batch < batches.num_batches:
            start, step = time.perf_counter(), position.batch // size
            try:
                norm = self._take_step(step)
            except DivergenceError as error:
                raise DivergenceError(
                    f"epoch {position.epoch + 1}, step {step + 1}: {error}, at a learning rate of "
                    f"{self.optimizer.lr:g}; a lower one may help; {self._output.path / FOLDER / LAST} is from before"
                ) from None
            position.batch = min((step + 1) * size, batches.num_batches)
            position.count_step(norm, self.config.clip_norm, time.perf_counter() - start)
            self.observer.step_done(position.tally)
            if self._output.is_due:
                self._output.save(LAST)
        self._raise_if_stopped()

    def _take_step(self, step: int) -> float:
        """Take a step of the present epoch, counted from 0; return the norm of its gradient."""
        self._raise_if_stopped()
        position, batches, size = self.state.position, self.train_batches, self.config.accumulation
        group = range(step * size, min((step + 1) * size, batches.num_batches))
        images = min(group.stop * batches.batch_size, batches.num_images) - group.start * batches.batch_size
        past = position.epoch * self.steps_per_epoch + step
        apply_schedule(self.optimizer, self.config, past, self.steps_per_epoch)
        loaded = (batches.extract_batch(position.epoch, index) for index in group)
        return self._stepper.take(loaded, images, position.tally, len(group))

    def _evaluate(self, split: Literal["validation", "test"], batches: Batches, when: str) -> Metrics:
        self.observer.evaluation_started(split)

        def on_batch(tally: Tally) -> None:
            self.observer.evaluation_batch_done(tally)
            self._raise_if_stopped()

        metrics = evaluate(self.net, batches, on_batch, self.engine)
        if not math.isfinite(metrics.loss):
            raise DivergenceError(f"{when}: expected a finite loss on the {split} images, got {metrics.loss}")
        return metrics

    def _finish(self) -> None:
        """Give the network the weights of the best epoch, test them, and write them and the results."""
        assert self.history is not None
        trained = self.state.capture()
        self.net.load_state_dict(self.state.best_weights or self.state.chosen_weights())
        self.history.test = self._evaluate("test", self.test_batches, "the test")
        self._output.end_run(self.history, trained, self.environment)
        self.observer.test_done(self.history.test)

    def _keep_best(self) -> None:
        """Remember the weights of the epoch that has just ended, if one is chosen and it is the best so far."""
        if self.validation_batches is not None and self.state.is_best:
            self.state.best_weights = self.state.chosen_weights()

    def _raise_if_stopped(self) -> None:
        if self.engine.any(self._stop):
            raise _Stop
