"""LeNet-5 on MNIST in 10 epochs, by the short recipe for CIFAR-10, but digits are moved by up to two pixels alone."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

DIGITS = {"augmentation": True, "crop_padding": 2, "cutout": 0, "label_smoothing": 0.0}

config = RunConfig(model="lenet5", dataset="mnist", batch_size=64, epochs=10, lr=0.05, **SHORT | DIGITS)
