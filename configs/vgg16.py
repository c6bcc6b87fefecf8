"""VGG-16 on CIFAR-10 with the sources' settings; they expect 91 to 93% (Simonyan and Zisserman, arXiv:1409.1556).

The settings are the defaults: SGD with momentum 0.9, batches of 128, a rate of 0.01 times 0.2 every 60 of 200 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="vgg16", dataset="cifar10")
