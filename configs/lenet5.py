"""LeNet-5 (LeCun et al. 1998) on MNIST with the sources' settings; ``--dataset emnist`` for letters.

The settings are the model's own: plain SGD at a rate of 0.001, batches of 32, 10 epochs.
"""

from cnnzoo import RunConfig

config = RunConfig(model="lenet5", dataset="mnist")
