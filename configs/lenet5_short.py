"""LeNet-5 on MNIST in 10 epochs: one-cycle (Smith and Topin, arXiv:1708.07120) with Nesterov's momentum.

Weight decay spares biases; images are moved by up to two pixels.
"""

from cnnzoo import RunConfig

config = RunConfig(
    model="lenet5",
    dataset="mnist",
    batch_size=64,
    epochs=10,
    lr=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    decay_all=False,
    schedule="one-cycle",
    augmentation=True,
    crop_padding=2,
    flip=False,
)
