"""VGG-16 on CIFAR-10 in 30 epochs, by the short recipe; without batch norm at a lower rate, gradients clipped."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

config = RunConfig(model="vgg16", dataset="cifar10", epochs=30, lr=0.02, clip_norm=5.0, **SHORT)
