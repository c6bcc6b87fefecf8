"""MobileNetV1 on CIFAR-10 with the sources' settings; they expect 90 to 92% (Howard et al., arXiv:1704.04861)."""

from cnnzoo import RunConfig

config = RunConfig(
    model="mobilenetv1",
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
