"""A run's progress for people: a bar on a terminal, a line for each epoch everywhere."""

import shutil
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Literal, TextIO

from tqdm.auto import tqdm

from cnnzoo.config import RunConfig
from cnnzoo.graph.tuning import Tuning
from cnnzoo.threads import count_cores, get_num_threads
from cnnzoo.training.compilation import compile_ahead, list_missing
from cnnzoo.training.forecast import Forecast, format_bytes
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Tally
from cnnzoo.training.observer import Observer

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer

_BAR = "{desc} {percentage:3.0f}%|{bar}| {rate_noinv_fmt}{postfix}"  # fits 80 columns
_COUNT = "{desc} {n}/{total}|{bar}|"

# Of an image that is evaluated, relative to one that is trained on: one pass instead of three.
_EVALUATION_COST = 1 / 3


class Progress(Observer):
    """Prints what a run will do and each epoch's results, and shows a bar in between.

    Parameters
    ----------
    output : text stream or None
        Takes the lines. None: standard output.
    terminal : text stream or None
        Takes the bar, where it is a terminal; in a notebook the bar shows anyway. None: standard error.
    """

    def __init__(self, output: TextIO | None = None, terminal: TextIO | None = None) -> None:
        self._output = sys.stdout if output is None else output
        self._terminal = sys.stderr if terminal is None else terminal
        self._bar: tqdm | None = None
        self._described = False
        self._epochs = 0
        self._epoch = 0
        self._images = {"train": 0, "validation": 0, "test": 0}
        self._split = "train"
        self._clock = _Clock()

    def compile_missing(self, config: RunConfig) -> None:
        """Compile what a run calls and the cache lacks, on all cores, and say so."""
        try:
            requests, start = list_missing(config), time.perf_counter()
            if not requests:  # another run has compiled them meanwhile
                return
            self._print(f"kernels: {len(requests)} to compile for this processor; they are kept for later runs")
            with open_bar("compiling", len(requests), self._terminal, _COUNT) as bar:
                for _ in compile_ahead(requests, min(count_cores(), len(requests))):
                    bar.update()
        except (OSError, BrokenExecutor) as error:
            self._print(f"kernels: {error}; each is compiled when it is called first")
        else:
            self._print(f"kernels: compiled in {format_seconds(time.perf_counter() - start)}")

    def plan_started(self, trainer: "Trainer") -> None:
        """Print the network and the data."""
        self._described = True
        config, dataset = trainer.config, trainer.dataset
        threads, ranks = get_num_threads(), trainer.engine.size
        self._print(
            f"{config.model}: {trainer.net.num_parameters:,} parameters, {config.dtype}, batches of "
            f"{config.images_per_batch}, {config.epochs} epoch{_s(config.epochs)}, "
            + (f"{ranks} ranks of " if ranks > 1 else "")
            + f"{threads} thread{_s(threads)}"
        )
        if ranks > 1:
            hosts = Counter(member["host"] for member in trainer.engine.members)
            self._print(f"ranks: {', '.join(f'{count} on {host}' for host, count in hosts.items())}")
        self._print(f"data: {dataset.source}")
        if trainer.validation_batches is not None:
            held_out = len(trainer.validation_batches.indices)
            self._print(f"validation: {held_out:,} of the training images, held out to choose the best epoch")
        if dataset.note:
            self._print(dataset.note)

    def tuning_advanced(self, done: int, total: int) -> None:
        """Show a bar, and move it."""
        if done == 0:
            self._open_bar("tuning", total, _COUNT)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def tuning_done(self, tuning: Tuning) -> None:
        """Print what was measured."""
        self.close()
        if tuning.ignored is not None:
            self._print(f"passed over: {tuning.ignored}")
        self._print(
            f"tuning: {tuning.measured} passes of convolutions measured in {format_seconds(tuning.seconds)}, "
            f"{tuning.known} before; {tuning.path}"
        )

    def run_started(self, trainer: "Trainer", history: History) -> None:
        """Print what the run will take, its folder, and where it goes on."""
        if not self._described:
            self.plan_started(trainer)
        self._epochs = trainer.config.epochs
        for split, batches in (
            ("train", trainer.train_batches),
            ("validation", trainer.validation_batches),
            ("test", trainer.test_batches),
        ):
            self._images[split] = batches.num_images if batches is not None else 0
        if trainer.forecast is not None:
            self._describe_forecast(trainer, trainer.forecast)
        self._print(f"run: {history.folder}")
        self._describe_resume(trainer)

    def _describe_forecast(self, trainer: "Trainer", forecast: Forecast) -> None:
        """Print what the run will take, and when it will end."""
        free = "" if forecast.free_memory is None else f", {format_bytes(forecast.free_memory)} are free"
        others = ", ".join(
            f"{format_bytes(count)} with --memory {other}" for other, count in forecast.other_memory.items()
        )
        self._print(f"memory: {format_bytes(forecast.memory)} beside images and weights ({others}){free}")
        if forecast.epoch_seconds is not None:
            position, epochs = trainer.state.position, trainer.config.epochs
            left = epochs - position.epoch - position.batch / trainer.train_batches.num_batches
            seconds = left * forecast.epoch_seconds + forecast.test_seconds
            end = time.localtime(time.time() + seconds)
            day = "" if end[:3] == time.localtime()[:3] else time.strftime(" on %a %d %b", end)
            self._print(
                f"time: {format_seconds(forecast.epoch_seconds)} an epoch by {forecast.steps} steps measured, "
                f"{format_seconds(seconds)} for {left:.3g} epoch{_s(left)}: until {time.strftime('%H:%M', end)}{day}"
            )
        if trainer.config.budget is not None:
            count = trainer.config.epochs
            self._print(f"budget: {count} epoch{_s(count)} and the test in {trainer.config.budget}")

    def _describe_resume(self, trainer: "Trainer") -> None:
        """Print where a run goes on, or that there is none to go on with."""
        for wrong in trainer.passed_over:
            self._print(f"passed over: {wrong}")
        config, header = trainer.config, trainer.resumed_from
        if header is not None:
            batches = header.values["position"]["batch"]
            done = f"{header.epoch} epoch{_s(header.epoch)} and {batches:,} batch{'' if batches == 1 else 'es'}"
            self._print(f"resumed from {header.path}: {done} are done")
            if header.config["epochs"] != config.epochs:
                self._print(
                    f"epochs: {config.epochs} instead of {header.config['epochs']}; "
                    f"from here on the learning rate is that of a run of {config.epochs}"
                )
        elif trainer.resume is not None:
            self._print(f"no run of {config.model} on {config.dataset} in {config.output_dir} to resume: a new one")

    def epoch_started(self, epoch: int) -> None:
        """Show a bar for the epoch's training."""
        self._epoch, self._split = epoch, "train"
        self._open_bar(f"epoch {epoch}/{self._epochs}", self._images["train"])

    def step_done(self, tally: Tally) -> None:
        """Move the bar."""
        self._advance(tally)

    def evaluation_started(self, split: Literal["validation", "test"]) -> None:
        """Show a bar for the epoch's validation, or for the test."""
        self._split = split
        title = "test" if split == "test" else f"validation {self._epoch}/{self._epochs}"
        self._open_bar(title, self._images[split])

    def evaluation_batch_done(self, tally: Tally) -> None:
        """Move the bar."""
        self._advance(tally)

    def epoch_done(self, record: EpochRecord) -> None:
        """Print the epoch's results."""
        self.close()
        left = self._clock.seconds_left
        validation = ""
        if record.validation_loss is not None:
            validation = f"validation: loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.1%} | "
        self._print(
            f"epoch {record.epoch}/{self._epochs}: "
            f"loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.1%} | {validation}"
            f"lr {record.lr:.3g}, {record.images_per_second:,.0f} images/s, "
            f"{format_seconds(record.seconds + record.validation_seconds)}"
            + (f", {format_seconds(left)} left" if left and record.epoch < self._epochs else "")
        )
        if record.clipped_steps:
            self._print(
                f"epoch {record.epoch}/{self._epochs}: gradients clipped in {record.clipped_steps:,} "
                f"step{_s(record.clipped_steps)}, the largest of norm {record.largest_gradient_norm:.3g}"
            )

    def run_done(self, history: History) -> None:
        """Take the test's bar away, and print what memory the run took."""
        self.close()
        if history.peak_memory is not None:
            self._print(f"memory: at most {format_bytes(history.peak_memory)} above what stood after the imports")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        print(wrap(line, self._output), file=self._output, flush=True)

    def _open_bar(self, title: str, total: int, layout: str = _BAR) -> None:
        self.close()
        self._bar = open_bar(title, total, self._terminal, layout)

    def _advance(self, tally: Tally) -> None:
        """Move the bar to the tally's images, and the clock to the share of the run's work that they complete."""
        train, validation, test = self._images.values()
        epoch_cost = train + validation * _EVALUATION_COST
        done = self._epoch * epoch_cost
        if self._split == "train":
            done += tally.images - epoch_cost
        elif self._split == "validation":
            done += (tally.images - validation) * _EVALUATION_COST
        else:
            done += tally.images * _EVALUATION_COST
        self._clock.update(done / (self._epochs * epoch_cost + test * _EVALUATION_COST))
        if self._bar is not None and not self._bar.disable:
            left = self._clock.seconds_left
            run_left = f", {format_seconds(left)} left" if left is not None else ""
            metrics = tally.metrics
            self._bar.set_postfix_str(f"loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.1%}{run_left}", False)
            self._bar.update(tally.images - self._bar.n)


def wrap(text: str, stream: TextIO) -> str:
    """Return lines broken between words where a terminal ends, those that go on indented; as they are elsewhere."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = (
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    return "\n".join(lines)


def open_bar(title: str, total: int, terminal: TextIO, layout: str = _BAR) -> tqdm:
    """Return a bar over so many images or kernels; it shows on a terminal or in a notebook, and goes when closed."""
    return tqdm(
        desc=title,
        total=total,
        unit=" images",
        unit_scale=True,
        file=terminal,
        disable=not (terminal.isatty() or _in_notebook()),
        leave=False,
        dynamic_ncols=True,
        bar_format=layout,
    )


def _in_notebook() -> bool:
    """Tell whether this is a notebook's kernel, whose standard error is no terminal but shows a bar."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class _Clock:
    """Estimates when a run ends, from its second step on: the first also compiles and plans."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None
        self.seconds_left: float | None = None

    def update(self, share: float) -> None:
        """Take note that this share of the run's work, above 0 to 1, is done."""
        now = time.perf_counter()
        if self._start is None:
            self._start = (now, share)
        elif share > self._start[1]:
            self.seconds_left = (now - self._start[0]) / (share - self._start[1]) * (1 - share)


def format_seconds(seconds: float) -> str:
    """Return a time such as 0.8 s, 42 s, 3:20 or 1:03:20."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return tqdm.format_interval(round(seconds)).lstrip("0")


def _s(count: float) -> str:
    return "" if count == 1 else "s"
