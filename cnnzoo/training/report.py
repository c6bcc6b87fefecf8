"""A run as one page, ``report.html``, that needs nothing beside itself: no other file, no script, no network."""

import base64
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnzoo.atomic import write_atomically
from cnnzoo.config import RunConfig, list_settings
from cnnzoo.data import Dataset
from cnnzoo.training.charts import Line, draw_confusion, draw_lines
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Metrics, wilson_interval
from cnnzoo.training.observer import Observer
from cnnzoo.training.png import encode_png
from cnnzoo.training.progress import format_seconds
from cnnzoo.training.schedules import learning_rate, momentum

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer

_MOST_POINTS = 400  # of the learning rate


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a report tells of a run beside its history.

    Attributes
    ----------
    dataset : Dataset
    environment : dict
        As environment.json has it.
    parameters : int
    train_images, validation_images : int
    steps_per_epoch : int
    """

    dataset: Dataset
    environment: dict[str, Any]
    parameters: int
    train_images: int
    validation_images: int
    steps_per_epoch: int


class Reporter(Observer):
    """Writes the report after each epoch, and for good after the test."""

    def run_started(self, trainer: "Trainer", history: History) -> None:
        """Take note of what the report is about."""
        self._trainer, self._history = trainer, history

    def epoch_done(self, record: EpochRecord) -> None:
        """Write the report of the epochs so far."""
        self._write()

    def test_done(self, metrics: Metrics) -> None:
        """Write the report with the test."""
        self._write()

    def _write(self) -> None:
        trainer = self._trainer
        held_out = trainer.validation_batches
        run = Run(
            dataset=trainer.dataset,
            environment=trainer.environment,
            parameters=trainer.net.num_parameters,
            train_images=len(trainer.train_batches.indices),
            validation_images=0 if held_out is None else len(held_out.indices),
            steps_per_epoch=trainer.steps_per_epoch,
        )
        write_report(self._history.folder / "report.html", self._history, run)


def write_report(path: Path, history: History, run: Run) -> None:
    """Write the page of a run of one epoch or more, atomically.

    Parameters
    ----------
    path : Path
    history : History
        Its test may still be to come.
    run : Run
    """
    sections = [_describe_result(history, run), _draw_curves(history, run)]
    if history.test is not None:
        sections += _describe_test(history.test, run.dataset)
    sections += [_describe_speed(history, run), _list_settings(history.config), _list_environment(run)]
    title = f"{history.config.model} on {run.dataset.name}"
    style = files("cnnzoo.training").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{chr(10).join(sections)}\n</main>\n</body>\n</html>\n"
    )
    write_atomically(path, page.encode())


def _describe_result(history: History, run: Run) -> str:
    config, best, last, test = history.config, history.best, history.epochs[-1], history.test
    tiles = []
    if test is not None:
        low, high = test.accuracy_interval
        interval = f"{low:.2%} to {high:.2%} (95%, Wilson)"
        tiles.append(_tile(f"{test.accuracy:.2%}", "test accuracy", interval, "main"))
        if run.dataset.num_classes > 5:
            tiles.append(_tile(f"{test.top5_accuracy:.2%}", "test, top-5", f"{test.images:,} images"))
        tiles.append(_tile(f"{test.loss:.4f}", "test loss", "nats an image"))
    if best.validation_accuracy is not None:
        tiles.append(_tile(f"{best.validation_accuracy:.2%}", "best validation", f"epoch {best.epoch} of {last.epoch}"))
    seconds = sum(record.seconds + record.validation_seconds for record in history.epochs)
    tiles.append(_tile(format_seconds(seconds), "training", f"{last.epoch} epoch{'' if last.epoch == 1 else 's'}"))
    done = f"{last.epoch} of {config.epochs} epochs are done; the test comes after the last." if test is None else ""
    if test is not None and run.validation_images:
        done = (
            f"The test images were used once, with the weights of epoch {best.epoch}: the best on "
            f"{run.validation_images:,} training images that were held out to choose it."
        )
    elif test is not None:
        done = "The test images were used once, with the weights of the last epoch; none was chosen by its results."
    lines = [run.dataset.source, run.dataset.note, done]
    return (
        f"<header><h1>{escape(config.model)} <span>on {escape(run.dataset.name)}</span></h1>"
        f"{''.join(f'<p>{escape(line)}</p>' for line in lines if line)}</header>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _tile(value: str, label: str, note: str, kind: str = "") -> str:
    return (
        f'<div class="tile {kind}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def _draw_curves(history: History, run: Run) -> str:
    epochs, config = history.epochs, history.config
    best, last = history.best.epoch if run.validation_images else 0, epochs[-1].epoch
    charts = []
    for what, caption, scale in (("loss", "Loss", 1), ("accuracy", "Accuracy in %", 100)):
        lines = [_line(epochs, split, what, scale) for split in ("train", "validation")]
        shown = [line for line in lines if line.points]
        drawn = draw_lines(f"{caption} by epoch", shown, format_y=lambda y: f"{y:.4g}", last=last, mark=best)
        charts.append(_figure(caption, drawn))
    steps = last * run.steps_per_epoch
    sampled = sorted({round(k * (steps - 1) / (_MOST_POINTS - 1)) for k in range(_MOST_POINTS)})
    rates = [(step / run.steps_per_epoch, learning_rate(config, step, run.steps_per_epoch)) for step in sampled]
    norms = [(record.epoch, record.largest_gradient_norm) for record in epochs]
    others = [
        ("Learning rate", Line(label="rate", points=rates, dots=False)),
        ("Gradient norm, the largest of each epoch", Line(label="largest", points=norms)),
    ]
    if config.base_momentum is not None:
        momenta = [(step / run.steps_per_epoch, momentum(config, step, run.steps_per_epoch)) for step in sampled]
        others.append(("Momentum", Line(label="momentum", points=momenta, dots=False)))
    for caption, line in others:
        drawn = draw_lines(f"{caption} by epoch", [line], format_y=lambda y: f"{y:.3g}", last=last)
        charts.append(_figure(caption, drawn))
    note = f'<p class="note">The dashed line marks epoch {best}, the best on validation.</p>' if best else ""
    return f'<section><h2>Training</h2><div class="charts">{"".join(charts)}</div>{note}</section>'


def _line(epochs: Sequence[EpochRecord], split: str, what: str, scale: float) -> Line:
    found = ((record.epoch, getattr(record, f"{split}_{what}")) for record in epochs)
    return Line(label=split, points=[(x, scale * y) for x, y in found if y is not None])


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _describe_test(test: Metrics, dataset: Dataset) -> list[str]:
    classes = dataset.classes
    rows = []
    for label, name in enumerate(classes):
        counts = test.confusion[label]
        images, hits = int(counts.sum()), int(counts[label])
        others = np.where(np.arange(len(classes)) == label, 0, counts)
        other = int(others.argmax())
        taken_for = f"{classes[other]} ({others[other]:,})" if others[other] else "–"
        if images:
            low, high = wilson_interval(hits, images)
            share = f'<span class="bar"><span style="width:{hits / images:.1%}"></span></span> {hits / images:.1%}'
            cells = [share, f"{low:.1%} to {high:.1%}", escape(taken_for)]
        else:
            cells = ["–", "–", "–"]
        rows.append([escape(name), f"{images:,}", *cells])
    table = _table(["class", "images", "accuracy", "95% interval", "taken for"], rows)
    confusion = (
        f"<section><h2>Confusion matrix</h2><p>A row for the class of the images, a column for what they were taken "
        f'for.</p><div class="confusion">{draw_confusion(test.confusion, classes)}</div></section>'
    )
    side = "beside" if len(classes) <= 20 else ""
    both = f'<div class="{side}">{confusion}<section class="classes"><h2>Classes</h2>{table}</section></div>'
    return [both, _show_mistakes(test, dataset)]


def _show_mistakes(test: Metrics, dataset: Dataset) -> str:
    if not test.mistakes:
        return "<section><h2>Worst mistakes</h2><p>There are none.</p></section>"
    figures = []
    for mistake in test.mistakes:
        picture = base64.b64encode(encode_png(dataset.test.images[mistake.index])).decode()
        label, predicted = dataset.classes[mistake.label], dataset.classes[mistake.predicted]
        figures.append(
            f'<figure><img alt="test image {mistake.index}: {escape(label)}" src="data:image/png;base64,{picture}">'
            f"<figcaption><b>{escape(predicted)}</b> {mistake.probability:.1%}<br>is {escape(label)}</figcaption>"
            f"</figure>"
        )
    return (
        f"<section><h2>Worst mistakes</h2><p>The test images of whose wrong class the network was surest.</p>"
        f'<div class="mistakes">{"".join(figures)}</div></section>'
    )


def _describe_speed(history: History, run: Run) -> str:
    seconds = [record.seconds for record in history.epochs]
    speeds = [record.images_per_second for record in history.epochs]
    validation = sum(record.validation_seconds for record in history.epochs)
    memory = history.peak_memory
    rows = [
        ["images a second while training, median epoch", f"{statistics.median(speeds):,.0f}"],
        ["seconds an epoch of training, median", f"{statistics.median(seconds):,.1f}"],
        ["training, all epochs", format_seconds(sum(seconds))],
        ["validation, all epochs", format_seconds(validation)],
        ["peak memory, above what stood after the imports", f"{memory / 1e6:,.0f} MB" if memory is not None else "–"],
        ["parameters", f"{run.parameters:,}"],
        ["images trained on", f"{run.train_images:,}"],
    ]
    table = _table([], [[escape(cell) for cell in row] for row in rows])
    return f'<section class="speed"><h2>Speed and memory</h2>{table}</section>'


def _list_settings(config: RunConfig) -> str:
    groups: dict[str, list[list[str]]] = {}
    for name, setting in list_settings().items():
        value = getattr(config, name)
        text = escape("none" if value in (None, ()) else str(value))
        changed = value != setting.default
        groups.setdefault(setting.group, []).append([escape(name), f"<b>{text}</b>" if changed else text])
    tables = (f"<div><h3>{escape(group)}</h3>{_table([], rows)}</div>" for group, rows in groups.items())
    return (
        f"<section><h2>Settings</h2><p>What differs from the defaults is bold.</p>"
        f'<div class="columns">{"".join(tables)}</div></section>'
    )


def _list_environment(run: Run) -> str:
    rows = [[escape(name), escape(value)] for name, value in _flatten(run.environment)]
    written = time.strftime("%Y-%m-%d %H:%M")
    return f"<section><h2>Environment</h2>{_table([], rows)}<footer>written {written} by cnnzoo</footer></section>"


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield a name and a text for each entry of nested dictionaries; runs before a resume are left out."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name} ")
        elif name != "earlier":
            yield f"{prefix}{name}", " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML, the first of a row its heading."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f'<div class="table"><table>{top}<tbody>{"".join(body)}</tbody></table></div>'
