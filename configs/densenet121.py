"""DenseNet-121 on CIFAR-10 with the sources' settings; they expect 94 to 95% (Huang et al., arXiv:1608.06993)."""

from cnnzoo import RunConfig

config = RunConfig(
    model="densenet121",
    dataset="cifar10",
    batch_size=128,
    epochs=200,
    lr=0.01,
    momentum=0.9,
    weight_decay=0.0,
    schedule="step",
    step_size=60,
    gamma=0.2,
)
