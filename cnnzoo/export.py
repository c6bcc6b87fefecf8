"""Take a trained network elsewhere: ``python -m cnnzoo.export --checkpoint PATH --output FILE``."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnzoo.command import Parser, run_command
from cnnzoo.errors import ConfigError, WeightsError

_DESCRIPTION = """Write a trained network's weights under PyTorch's names and in its layouts, for other programs.

examples:
  cnnzoo export --checkpoint runs/20261121-071239-resnet18-cifar10-s0 --output resnet18.safetensors
  cnnzoo export --checkpoint runs/20261121-071239-resnet18-cifar10-s0 --output resnet18 --format hex

In PyTorch, model.load_state_dict(safetensors.torch.load_file("resnet18.safetensors")) takes them. The header of the
file says the model, its classes and the normalization. hex is a folder of hexadecimal text, a file for each array."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo export", lambda: export(arguments))


def export(arguments: Sequence[str] | None) -> None:
    """Export as the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    output = Path(parsed.output)
    _check_output(output, parsed.force)
    from cnnzoo.interop.hex_weights import save_hex_weights
    from cnnzoo.interop.model_file import find_model_file, load_model, save_model

    path = find_model_file(parsed.checkpoint)
    net, description = load_model(path)
    output.parent.mkdir(parents=True, exist_ok=True)
    if parsed.format == "hex":
        save_hex_weights(output, net.state_dict())
    else:
        save_model(output, net, description)
    result = {
        "checkpoint": str(path),
        "model": description.config.model,
        "output": str(output),
        "format": parsed.format,
        "arrays": len(net.state_dict()),
        "parameters": net.num_parameters,
    }
    words = f"{result['model']} from {path}: {result['arrays']} arrays, {net.num_parameters:,} parameters -> {output}"
    print(json.dumps(result) if parsed.json else words)


def _check_output(output: Path, force: bool) -> None:
    """Refuse to write over what is there, unless that is asked for, and over what a run goes on from in any case."""
    place = output.resolve()
    if any(path.name == "checkpoints" and (path.parent / "config.json").is_file() for path in (place, *place.parents)):
        raise ConfigError(f"--output: expected a place outside of a run's checkpoints, got {output}")
    if output.is_file() and not force:
        raise WeightsError(f"{output}: expected nothing there, found a file; --force replaces it")


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo export", description=_DESCRIPTION)
    parser.add_argument("--checkpoint", metavar="PATH", required=True, help="a run's folder, or a file of weights")
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="file to write, or for hex a folder that is not there yet"
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "hex"),
        default="safetensors",
        help="of what is written (default: safetensors)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file where there is one")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
