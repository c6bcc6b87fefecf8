"""Say what pictures show: ``python -m cnnzoo.predict --checkpoint PATH IMAGE…``."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnzoo.command import Parser, align, run_command

if TYPE_CHECKING:
    from cnnzoo.graph.network import Network
    from cnnzoo.interop.model_file import ModelDescription

_DESCRIPTION = """Say what pictures show, by the five most probable classes of a trained network.

example:
  cnnzoo predict --checkpoint runs/20261121-071239-resnet18-cifar10-s0 cat.png dog.jpg

Pictures are PNG, JPEG and others that Pillow reads (pip install 'cnnzoo[pictures]'), or .npy files of uint8 [height,
width], with 1 or 3 channels before or behind. They are resized to the network's size. Networks of MNIST and EMNIST
know white characters on black."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo predict", lambda: predict(arguments))


def predict(arguments: Sequence[str] | None) -> None:
    """Predict as the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    from cnnzoo.interop.model_file import find_model_file, load_model

    path = find_model_file(parsed.checkpoint)
    net, description = load_model(path)
    images = [_predict_one(image, net, description) for image in parsed.images]
    if parsed.json:
        print(json.dumps({"checkpoint": str(path), "model": description.config.model, "images": images}))
    else:
        print("\n".join(line for image in images for line in _describe(image)))


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo predict", description=_DESCRIPTION)
    parser.add_argument("--checkpoint", metavar="PATH", required=True, help="a run's folder, or a file of weights")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture")
    return parser


def _predict_one(path: str, net: "Network", description: "ModelDescription") -> dict[str, Any]:
    """Return what a picture shows, as plain values for JSON."""
    import numpy as np

    from cnnzoo.data import Batches, Split
    from cnnzoo.data.pictures import fit_picture, read_picture

    picture = read_picture(path)
    fitted = fit_picture(picture, description.image_shape)
    split = Split(images=fitted[None], labels=np.zeros(1, np.int64))
    batches = Batches(split, 1, mean=description.mean, std=description.std, shuffle=False, dtype=net.dtype)
    images, _ = batches.extract_batch(0, 0)
    logits = net.forward(images)[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    first = np.argsort(-probabilities, kind="stable")[:5]
    channels, height, width = picture.shape
    return {
        "path": path,
        "width": width,
        "height": height,
        "channels": channels,
        "fitted_to": {"width": fitted.shape[2], "height": fitted.shape[1], "channels": fitted.shape[0]},
        "predictions": [{"class": description.classes[i], "probability": float(probabilities[i])} for i in first],
    }


def _describe(image: dict[str, Any]) -> list[str]:
    fitted, changes = image["fitted_to"], []
    if fitted["channels"] != image["channels"]:
        changes.append("turned gray" if fitted["channels"] == 1 else "gray, taken as color")
    if (fitted["width"], fitted["height"]) != (image["width"], image["height"]):
        size = f"{fitted['width']}x{fitted['height']}"
        changes.append(f"resized from {image['width']}x{image['height']} to {size} pixels")
    title = f"{image['path']}: {', '.join(changes)}" if changes else f"{image['path']}:"
    rows = [[f"  {found['class']}", f"{found['probability']:.1%}"] for found in image["predictions"]]
    return [title, *align(rows, left=1)]


if __name__ == "__main__":
    sys.exit(main())
