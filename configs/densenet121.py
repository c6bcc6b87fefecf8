"""DenseNet-121 on CIFAR-10 with the sources' settings; they expect 94 to 95% (Huang et al., arXiv:1608.06993).

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="densenet121", dataset="cifar10")
