"""A small network in a file that describes itself, and data for it, for tests of commands that take a checkpoint."""

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.interop.model_file import ModelDescription, save_model


def write_mnist(folder, images=30, seed=0):
    """Write small IDX files in MNIST's layout: `images` of each split; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split in ("train", "t10k"):
        pixels = rng.integers(0, 256, (images, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, images, dtype=np.uint8)
        header = np.array([2051, images, 28, 28], ">u4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            np.array([2049, images], ">u4").tobytes() + labels.tobytes()
        )
    return folder


def describe_lenet(data_dir, **settings):
    """Return the description of a LeNet-5 of MNIST's digits."""
    return ModelDescription(
        config=RunConfig(model="lenet5", dataset="mnist", data_dir=data_dir, **settings),
        image_shape=(1, 28, 28),
        classes=tuple("0123456789"),
        mean=(0.1307,),
        std=(0.3081,),
        notes={"epoch": "3"},
    )


def write_run(folder, data_dir, **settings):
    """Write the folder of a run of LeNet-5 with initial weights; return the network and its description."""
    folder.mkdir(parents=True, exist_ok=True)
    description = describe_lenet(data_dir, **settings)
    net = description.create_network()
    net.load_state_dict({name: 1.5 * array for name, array in net.state_dict().items()})
    save_model(folder / "final.safetensors", net, description)
    return net, description
