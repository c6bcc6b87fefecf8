"""ResNet-18 on CIFAR-10 in 10 epochs, by the short recipe."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

config = RunConfig(model="resnet18", dataset="cifar10", epochs=10, lr=0.1, **SHORT)
