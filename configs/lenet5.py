"""LeNet-5 (LeCun et al. 1998) on MNIST with the sources' settings; ``--dataset emnist`` for letters."""

from cnnzoo import RunConfig

config = RunConfig(
    model="lenet5",
    dataset="mnist",
    batch_size=32,
    epochs=10,
    lr=0.001,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    augmentation=False,
)
