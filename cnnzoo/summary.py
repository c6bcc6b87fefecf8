"""A network's layers, parameters, multiply-adds and memory: ``python -m cnnzoo.summary --model NAME``."""

import argparse
import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnzoo.command import Parser, add_setting, align, run_command
from cnnzoo.config import RunConfig, list_settings
from cnnzoo.errors import ConfigError

if TYPE_CHECKING:
    from cnnzoo.graph.summary import Summary

_DESCRIPTION = """Show what a network is made of and what it takes, or all networks in one table.

examples:
  cnnzoo summary --model resnet18 --batch-size 64
  cnnzoo summary --compare"""

_COUNTED = """multiply-adds of one image forward: convolutions and fully connected layers alone,
zeros of padding included"""
_EPILOG = f"""{_COUNTED}

memory in MB of 10^6 bytes: a training step works on the parameters, their gradients, momentum, the running
statistics of batch norm, and one arena of activations, gradients of activations and scratch; the interpreter,
the compiled kernels and the data set come on top"""
_BATCH_SIZE = list_settings()["batch_size"].default


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo summary", lambda: summary(arguments))


def summary(arguments: Sequence[str] | None) -> None:
    """Print the summary that the arguments ask for; see `main`."""
    parsed = _make_parser().parse(arguments)
    if (parsed.model is None) != parsed.compare:
        raise ConfigError(f"expected --model NAME or --compare, got {'both' if parsed.compare else 'neither'}")
    from cnnzoo.models import list_models

    if parsed.compare:
        found = {name: _summarize(name, parsed, lenient=True) for name in list_models()}
        plain = [{"model": name} | _to_plain(s, with_layers=False) for name, s in found.items()]
        print(json.dumps({"models": plain}) if parsed.json else _describe_all(found))
    else:
        one = _summarize(parsed.model, parsed)
        print(json.dumps({"model": parsed.model} | _to_plain(one)) if parsed.json else _describe(parsed.model, one))


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo summary", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--model", metavar="NAME", help="network to show")
    parser.add_argument(
        "--compare", action="store_true", help="one table of all networks, a setting applied to those that have it"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON, memory in bytes")
    add_setting(parser, "batch_size")
    parser.add_argument("--num-classes", metavar="N", type=int, default=10, help="classes (default: 10)")
    parser.add_argument(
        "--image-shape", metavar="CxHxW", type=_read_shape, help="channels, height, width (default: the network's own)"
    )
    for name, setting in list_settings().items():
        if setting.group == "model" and name not in ("model", "init_from", "tune"):  # nothing is measured
            add_setting(parser, name)
    return parser


def _read_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){2}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected channels, height and width as 3x32x32, got {text!r}")
    return tuple(map(int, text.split("x")))


def _summarize(name: str, parsed: argparse.Namespace, lenient: bool = False) -> "Summary":
    """Return a network's summary; a setting that the network does not have is left out if `lenient`, else refused."""
    from cnnzoo.graph.summary import summarize
    from cnnzoo.models.registry import build_graph, get_model

    # One batch size for all, whatever their recipes say.
    said = {"batch_size": _BATCH_SIZE} | {key: value for key, value in vars(parsed).items() if key in list_settings()}
    config = RunConfig.from_dict(said | {"model": name})
    dropout, options = config.dropout, config.model_options
    if lenient:
        model = get_model(name)
        dropout = dropout if model.dropout else None
        options = {key: value for key, value in options.items() if key in model.options}
    graph = build_graph(name, parsed.num_classes, image_shape=parsed.image_shape, dropout=dropout, **options)
    return summarize(
        graph,
        config.batch_size,
        config.dtype,
        memory=config.memory,
        storage=config.storage,
        algorithm=config.algorithm,
    )


def _to_plain(s: "Summary", with_layers: bool = True) -> dict[str, Any]:
    """Return plain values for JSON."""
    plain = dataclasses.asdict(s) | {"parameters": s.parameters, "multiply_adds": s.multiply_adds}
    plain["memory"] |= {"training_arena": s.memory.training_arena, "training_step": s.memory.training_step}
    plain["memory"]["training_steps"] = s.memory.training_steps
    if not with_layers:
        del plain["layers"]
    return plain


def _describe(name: str, s: "Summary") -> str:
    rows = [["layer", "kind", "output", "parameters", "multiply-adds"]]
    rows += [
        [layer.name, layer.kind, _shape(layer.output_shape), _count(layer.parameters), _count(layer.multiply_adds)]
        for layer in s.layers
    ]
    rows.append([f"{len(s.layers)} layers", "", "", _count(s.parameters), _count(s.multiply_adds)])
    m = s.memory
    parts = [
        ("parameters", m.parameters),
        ("gradients of the parameters", m.gradients),
        ("momentum", m.momentum),
        ("running statistics", m.running_statistics),
        ("activations, their gradients, scratch", m.training_arena),
        ("in all", m.training_step),
        *((f"in all with --memory {other}", size) for other, size in m.training_steps.items() if other != m.memory),
    ]
    memory = [[f"  {part}", f"{_megabytes(size)} MB"] for part, size in parts]
    memory.append(["inference: activations, scratch", f"{_megabytes(m.inference_arena)} MB"])
    return "\n".join(
        [
            f"{name}: images of {_shape(s.image_shape)}, {s.num_classes} classes",
            "",
            *align(rows, left=2),
            _COUNTED,
            "",
            f"algorithms, batches of {s.batch_size:,}: forward, input gradient, weight gradient",
            *align(_list_algorithms(s), left=3),
            "",
            f"memory of a training step, {_conditions(s)}, --memory {m.memory}",
            *align(memory, left=1),
        ]
    )


def _list_algorithms(s: "Summary") -> list[list[str]]:
    """Return a row for each choice of algorithms, with the number of layers that it is made for."""
    counts = Counter(layer.algorithms for layer in s.layers if layer.algorithms is not None)
    return [[f"  {passes[0]}", *passes[1:], f"{n} layer{'' if n == 1 else 's'}"] for passes, n in counts.most_common()]


def _conditions(s: "Summary") -> str:
    preferred = f", --algorithm {s.algorithm}" if s.algorithm else ""
    return f"batches of {s.batch_size:,}, {s.dtype}{preferred}"


def _describe_all(found: dict[str, "Summary"]) -> str:
    choices = list_settings()["memory"].choices
    rows = [["model", "images", "layers", "parameters", "multiply-adds", *(f"{c} MB" for c in choices), "inference MB"]]
    for name, s in found.items():
        training = [_megabytes(s.memory.training_steps[choice]) for choice in choices]
        rows.append(
            [
                *(name, _shape(s.image_shape), str(len(s.layers)), _count(s.parameters), _count(s.multiply_adds)),
                *(*training, _megabytes(s.memory.inference_arena)),
            ]
        )
    s = next(iter(found.values()))
    return "\n".join(
        [
            *align(rows, left=1),
            _COUNTED,
            f"memory for {_conditions(s)}: {', '.join(choices)}, all that a training step",
            "works on with that --memory; inference, activations and scratch",
        ]
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
