"""Keep the numbers of a run's report: how it was made, each epoch, and its test, in one file without the weights.

What tells of the machine's folders is left out.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks`

from benchmarks import harness
from cnnzoo.command import Parser, run_command
from cnnzoo.errors import CnnzooError

_FOLDERS = ("data_dir", "output_dir")
_FLAGS = {"--data-dir": "DIR", "--output-dir": "DIR", "--resume": "RUN"}


def summarize(folder: Path) -> dict[str, Any]:
    """Return the numbers of a run, from the files in its folder.

    Raises
    ------
    CnnzooError
        A file is missing, for it is no run's folder or the run is not over, or holds something else.
    """
    config, environment, test = (_read(folder / name) for name in ("config.json", "environment.json", "test.json"))
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {
            "command": _describe_command(environment["command"]),
            "data": {name: value for name, value in environment["data"].items() if name != "source"},
            "cpu": environment["cpu"],
            "threads": environment["threads"],
            "versions": environment["versions"],
            "resumed": len(environment.get("earlier", [])),
            "config": {name: value for name, value in config.items() if name not in _FOLDERS},
            "epochs": [json.loads(line) for line in lines],
            "test": {name: value for name, value in test.items() if name != "worst_mistakes"},
        }
    except (KeyError, ValueError) as error:
        raise CnnzooError(f"{folder}: expected the files of a run, found others: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CnnzooError(f"{path.parent}: expected the folder of a run that is over, found no {path.name} in it")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CnnzooError(f"{path}: expected what a run wrote, found something else: {error}") from error


def _describe_command(arguments: Sequence[str]) -> str:
    """Return a run's command with words for the folders of the machine that it ran on."""
    words = ["python -m cnnzoo.train"]
    before = ""
    for argument in arguments[1:]:
        words.append(f"configs/{Path(argument).name}" if before == "--config" else _FLAGS.get(before, argument))
        before = argument
    return " ".join(words)


def run(arguments: Sequence[str] | None) -> None:
    """Write the file that the arguments ask for."""
    parser = Parser(
        description=__doc__.splitlines()[0],
        epilog="example:\n  python benchmarks/keep_run.py runs/RUN --json benchmarks/results/lenet5_mnist_short.json",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--json", metavar="FILE", type=harness.new_file, required=True, help="write the numbers here")
    parsed = parser.parse(arguments)
    found = summarize(parsed.run)
    harness.write_content(parsed.json, found)
    test = found["test"]
    print(
        f"{parsed.json}: {len(found['epochs'])} epochs, test accuracy {test['accuracy']:.2%}, {test['images']:,} images"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a run's numbers and return the exit code."""
    return run_command("benchmarks/keep_run.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
