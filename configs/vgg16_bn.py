"""VGG-16 with batch norm (Ioffe and Szegedy, arXiv:1502.03167) on CIFAR-10 with the sources' settings for VGG-16."""

from cnnzoo import RunConfig

config = RunConfig(
    model="vgg16_bn",
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
