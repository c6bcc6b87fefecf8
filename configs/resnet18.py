"""ResNet-18 on CIFAR-10 with the sources' settings; they expect 93 to 94% (He et al., arXiv:1512.03385).

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="resnet18", dataset="cifar10")
