"""The networks in PyTorch, for images of any shape that fits: what tests and benchmarks compare with.

Written out from the papers' tables as PyTorch's users write them, with torchvision's module names, so that
`state_dict` has the keys of `cnnzoo.graph.network.Network.state_dict` (and `num_batches_tracked`).
"""

import torch
from torch import nn

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RESNET18_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first of two blocks


class VGG16(nn.Module):
    """VGG-16 with a classifier of 512-512-num_classes; batch norm after bias-free convolutions if `normalize`."""

    def __init__(self, normalize, num_classes=10, image_shape=(3, 32, 32), dropout=0.5):
        super().__init__()
        channels, height, width = image_shape
        layers = []
        for stage in VGG16_STAGES:
            for width_of_stage in stage:
                layers.append(nn.Conv2d(channels, width_of_stage, 3, padding=1, bias=not normalize))
                if normalize:
                    layers.append(nn.BatchNorm2d(width_of_stage))
                layers.append(nn.ReLU(inplace=True))
                channels = width_of_stage
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        pools = len(VGG16_STAGES)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (height >> pools) * (width >> pools), 512),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(512, num_classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem and no max pool behind it."""

    def __init__(self, num_classes=10, image_shape=(3, 32, 32)):
        super().__init__()
        channels = RESNET18_STAGES[0][0]
        self.conv1 = nn.Conv2d(image_shape[0], channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        for number, (width, stride) in enumerate(RESNET18_STAGES, start=1):
            blocks = nn.Sequential(BasicBlock(channels, width, stride), BasicBlock(width, width, 1))
            self.add_module(f"layer{number}", blocks)
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def make_pytorch_model(name, num_classes=10, image_shape=(3, 32, 32), dropout=None):
    """Return the PyTorch module of `cnnzoo.create_model(name, ...)`, with PyTorch's own initial weights."""
    if name == "resnet18":
        return ResNet18(num_classes, image_shape)
    rate = 0.5 if dropout is None else dropout
    return VGG16({"vgg16": False, "vgg16_bn": True}[name], num_classes, image_shape, rate)
