"""Test a trained network: ``python -m cnnzoo.evaluate --checkpoint PATH``."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnzoo.command import Parser, add_setting, align, run_command
from cnnzoo.threads import set_num_threads

if TYPE_CHECKING:
    import numpy as np

    from cnnzoo.config import RunConfig
    from cnnzoo.interop.model_file import ModelDescription
    from cnnzoo.training.metrics import Metrics, Tally

_DESCRIPTION = """Show how well a trained network does on images that it was not trained on.

example:
  cnnzoo evaluate --checkpoint runs/20261121-071239-resnet18-cifar10-s0

A run's folder stands for the weights that the run ended with, or while it lasts for its best checkpoint. Images are
normalized as they were in training."""
_SETTINGS = ("dataset", "emnist_split", "data_dir", "limit_test", "batch_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo evaluate", lambda: evaluate(arguments))


def evaluate(arguments: Sequence[str] | None) -> None:
    """Evaluate as the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    if getattr(parsed, "threads", None) is not None:
        set_num_threads(parsed.threads)  # before numba is imported, with the network
    from cnnzoo.interop.model_file import find_model_file, load_model

    path = find_model_file(parsed.checkpoint)
    net, description = load_model(path)
    config = description.config.replace(**{name: value for name, value in vars(parsed).items() if name in _SETTINGS})
    metrics, source = _measure(net, description, config, parsed.split)
    result: dict[str, Any] = {
        "checkpoint": str(path),
        "model": config.model,
        "data": source,
        "split": parsed.split,
        **metrics.to_dict(description.classes),
    }
    if parsed.json:
        print(json.dumps(result))
    else:
        print("\n".join(_describe(result, metrics.confusion)))


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo evaluate", description=_DESCRIPTION)
    parser.add_argument("--checkpoint", metavar="PATH", required=True, help="a run's folder, or a file of weights")
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="images to use: the test images, or those that the run held out (default: test)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    for name in _SETTINGS:
        add_setting(parser, name, default="the run's")
    add_setting(parser, "threads")
    return parser


def _measure(net: Any, description: "ModelDescription", config: "RunConfig", split: str) -> "tuple[Metrics, str]":
    """Return how the network does, and what data that is."""
    from cnnzoo.data import choose_dataset, load_dataset
    from cnnzoo.errors import ConfigError, DataError
    from cnnzoo.training.metrics import evaluate as measure
    from cnnzoo.training.progress import open_bar
    from cnnzoo.training.splits import make_batches

    name, data_dir = choose_dataset(config.dataset, config.data_dir)
    dataset = load_dataset(
        name,
        data_dir,
        limit_train=config.limit_train,
        limit_test=config.limit_test,
        emnist_split=config.emnist_split,
    )
    if (dataset.image_shape, dataset.classes) != (description.image_shape, description.classes):
        expected, found = (
            f"{'x'.join(map(str, kind.image_shape))} images of {_list_classes(kind.classes)}"
            for kind in (description, dataset)
        )
        raise DataError(f"{name}: expected {expected}, as the network was trained on, found {found}")
    dataset = dataclasses.replace(dataset, mean=description.mean, std=description.std)
    batches = getattr(make_batches(config, dataset), split)
    if batches is None:
        raise ConfigError("split: expected test, for the run held no images out, got validation")
    with open_bar(split, batches.num_images, sys.stderr) as bar:

        def move_bar(tally: "Tally") -> None:
            bar.update(tally.images - bar.n)

        return measure(net, batches, move_bar), dataset.source


def _list_classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:3])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 3 else ''})"


def _describe(result: dict[str, Any], confusion: "np.ndarray") -> list[str]:
    interval = result["accuracy_interval"]
    rows = [["class", "most often taken for", "images", "accuracy"]]
    for label, found in enumerate(result["classes"]):
        mistakes = confusion[label].copy()
        mistakes[label] = 0
        other = int(mistakes.argmax())
        taken_for = f"{result['classes'][other]['name']} ({mistakes[other]:,})" if mistakes[other] else "-"
        accuracy = "-" if found["accuracy"] is None else f"{found['accuracy']:.1%}"
        rows.append([found["name"], taken_for, f"{found['images']:,}", accuracy])
    return [
        f"{result['model']} from {result['checkpoint']}",
        f"data: {result['data']}",
        f"{result['split']}: accuracy {result['accuracy']:.2%} "
        f"(95% interval {interval['low']:.2%} to {interval['high']:.2%}), "
        f"top-5 {result['top5_accuracy']:.2%}, loss {result['loss']:.4f}, {result['images']:,} images",
        "",
        *align(rows, left=2),
    ]


if __name__ == "__main__":
    sys.exit(main())
