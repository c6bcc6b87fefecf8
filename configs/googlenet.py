"""GoogLeNet on CIFAR-10 with the sources' settings; they expect 92 to 94% (Szegedy et al., arXiv:1409.4842).

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="googlenet", dataset="cifar10")
