"""VGG-16 with batch norm (Ioffe and Szegedy, arXiv:1502.03167) on CIFAR-10 with the sources' settings for VGG-16.

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="vgg16_bn", dataset="cifar10")
