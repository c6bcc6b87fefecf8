"""ResNet-18 on CIFAR-10 in 18 epochs, by the short recipe."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

config = RunConfig(model="resnet18", dataset="cifar10", epochs=18, lr=0.1, **SHORT)
