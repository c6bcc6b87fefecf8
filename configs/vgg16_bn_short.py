"""VGG-16 with batch norm on CIFAR-10 in 20 epochs, by the short recipe."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

config = RunConfig(model="vgg16_bn", dataset="cifar10", epochs=20, lr=0.1, **SHORT)
