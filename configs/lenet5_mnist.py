"""LeNet-5 on MNIST in three epochs: the rate rises and falls in one cycle (arXiv:1708.07120), digits are shifted."""

from cnnzoo import RunConfig

config = RunConfig(
    model="lenet5",
    dataset="mnist",
    validation=0,
    batch_size=64,
    epochs=3,
    lr=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    clip_norm=1.0,
    schedule="one-cycle",
    augmentation=True,
    crop_padding=1,
)
