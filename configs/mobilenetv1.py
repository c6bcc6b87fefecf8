"""MobileNetV1 on CIFAR-10 with the sources' settings; they expect 90 to 92% (Howard et al., arXiv:1704.04861).

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="mobilenetv1", dataset="cifar10")
