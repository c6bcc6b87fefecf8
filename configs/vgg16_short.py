"""VGG-16 on CIFAR-10 in 30 epochs: one-cycle (Smith and Topin, arXiv:1708.07120) with Nesterov's momentum.

Weight decay spares biases; labels are smoothed; images are cropped, mirrored and cut out. Without batch norm the rate
is lower, and gradients are clipped.
"""

from cnnzoo import RunConfig

config = RunConfig(
    model="vgg16",
    dataset="cifar10",
    batch_size=128,
    epochs=30,
    lr=0.02,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    decay_all=False,
    clip_norm=5.0,
    label_smoothing=0.1,
    schedule="one-cycle",
    cutout=8,
)
