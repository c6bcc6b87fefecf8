"""ResNet-18 on CIFAR-10, stronger: a higher rate along a cosine (SGDR, arXiv:1608.03983), weight decay."""

from cnnzoo import RunConfig

config = RunConfig(model="resnet18", dataset="cifar10", epochs=200, lr=0.1, weight_decay=5e-4, schedule="cosine")
