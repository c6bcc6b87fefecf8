"""MobileNetV1 on CIFAR-10 in 20 epochs, by the short recipe."""

from cnnzoo import RunConfig
from cnnzoo.recipes import SHORT

config = RunConfig(model="mobilenetv1", dataset="cifar10", epochs=20, lr=0.1, **SHORT | {"weight_decay": 1e-4})
