"""AlexNet on CIFAR-10 with the sources' settings; they expect 80 to 85% (Krizhevsky et al., NIPS 2012)."""

from cnnzoo import RunConfig

config = RunConfig(model="alexnet", dataset="cifar10", epochs=100, lr=0.01, schedule="step", step_size=30, gamma=0.1)
