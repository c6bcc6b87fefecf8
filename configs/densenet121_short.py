"""DenseNet-121 on CIFAR-10 in 20 epochs: one-cycle (Smith and Topin, arXiv:1708.07120) with Nesterov's momentum.

Weight decay spares biases and batch norm; labels are smoothed; images are cropped, mirrored and cut out.
"""

from cnnzoo import RunConfig

config = RunConfig(
    model="densenet121",
    dataset="cifar10",
    batch_size=128,
    epochs=20,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    decay_all=False,
    label_smoothing=0.1,
    schedule="one-cycle",
    cutout=8,
)
