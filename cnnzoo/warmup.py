"""Compile what networks need before they are run: ``python -m cnnzoo.warmup --model NAME``."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnnzoo.command import Parser, add_setting, align, run_command
from cnnzoo.config import RunConfig, list_settings
from cnnzoo.errors import ConfigError
from cnnzoo.threads import count_cores

if TYPE_CHECKING:
    from cnnzoo.kernels.compile import Compilation, Request

_DESCRIPTION = """Compile all that training and testing a network calls, in parallel, and keep it in the cache.

examples:
  cnnzoo warmup
  cnnzoo warmup --model resnet18 --batch-size 64

A kernel is compiled once for each real type and serves all networks and sizes. It is compiled again only for other
sources, versions or processors."""
_SETTINGS = ("batch_size", "dtype", "algorithm", "memory", "storage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo warmup", lambda: warmup(arguments))


def warmup(arguments: Sequence[str] | None) -> None:
    """Compile as the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    if parsed.processes < 1:
        raise ConfigError(f"--processes: expected 1 or more, got {parsed.processes}")
    from cnnzoo.models import list_models
    from cnnzoo.training.compilation import compile_ahead, list_requests

    start = time.perf_counter()
    said = {name: value for name, value in vars(parsed).items() if name in list_settings()}
    models = [said.pop("model")] if "model" in said else list_models()
    needed: dict[Request, list[str]] = {}  # by which networks
    for name in models:
        for request in list_requests(RunConfig.from_dict(said | {"model": name})):
            needed.setdefault(request, []).append(name)
    listed = time.perf_counter()
    compiled = sorted(compile_ahead(needed, parsed.processes), key=lambda compilation: -compilation.seconds)
    done = [(compilation, needed[compilation.request]) for compilation in compiled]
    ended = time.perf_counter()
    if parsed.json:
        result = {"listing_seconds": listed - start, "seconds": ended - start, "processes": parsed.processes}
        kernels = [dataclasses.asdict(compilation) | {"networks": networks} for compilation, networks in done]
        print(json.dumps(result | {"kernels": kernels}))
    else:
        print(*_describe(done, len(models)), sep="\n")
        print(f"{ended - start:.1f} s in {parsed.processes} processes, {listed - start:.1f} s of it to list them")


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo warmup", description=_DESCRIPTION)
    add_setting(parser, "model", "all networks")
    for name in _SETTINGS:
        add_setting(parser, name)
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=count_cores(),
        help="compile so many at a time (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def _describe(done: Sequence[tuple["Compilation", list[str]]], models: int) -> list[str]:
    rows = [["kernel", "type", "for", "seconds", ""]]
    for c, networks in done:
        users = "all" if len(networks) == models > 1 else " ".join(networks)
        rows.append([c.name, c.dtype, users, f"{c.seconds:.2f}", "from the cache" if c.loaded else ""])
    compiled = [c for c, _ in done if not c.loaded]
    return [
        *align(rows, left=3),
        f"{len(compiled)} compiled in {sum(c.seconds for c in compiled):.1f} s of computing, "
        f"{len(done) - len(compiled)} loaded",
    ]


if __name__ == "__main__":
    sys.exit(main())
