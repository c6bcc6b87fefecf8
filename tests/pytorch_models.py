"""The networks in PyTorch, for images of any shape that fits: what tests and benchmarks compare with.

Written out from the papers' tables as PyTorch's users write them, with the module names that make `state_dict` have
the keys of `cnnzoo.graph.network.Network.state_dict` (and `num_batches_tracked`): torchvision's where it has the
network. They share nothing with cnnzoo.
"""

from functools import partial

import torch
from torch import nn

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RESNET18_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first of two blocks
GOOGLENET_STAGES = (  # a row a module: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
    {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
)
MOBILENETV1_BLOCKS = (  # channels, stride
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
DENSENET121_BLOCKS = (6, 12, 24, 16)  # layers


class VGG16(nn.Module):
    """VGG-16 with a smaller classifier; batch norm after bias-free convolutions if `normalize`."""

    def __init__(self, normalize, num_classes=10, image_shape=(3, 32, 32), classifier_width=512):
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
        self.classifier = nn.Sequential(
            nn.Linear(channels * (height // 32) * (width // 32), classifier_width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(classifier_width, classifier_width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(classifier_width, num_classes),
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


class BasicConv2d(nn.Module):
    """A bias-free convolution that keeps the size of the image, batch norm, ReLU."""

    def __init__(self, in_channels, channels, kernel):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3, 5x5, and a max pool."""

    def __init__(self, in_channels, one, reduce3, three, reduce5, five, projection):
        super().__init__()
        self.branch1 = BasicConv2d(in_channels, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(in_channels, reduce3, 1), BasicConv2d(reduce3, three, 3))
        self.branch3 = nn.Sequential(BasicConv2d(in_channels, reduce5, 1), BasicConv2d(reduce5, five, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BasicConv2d(in_channels, projection, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet with batch norm and a 3x3 stem, without auxiliary classifiers."""

    def __init__(self, num_classes=10, image_shape=(3, 32, 32)):
        super().__init__()
        channels = 64
        self.conv1 = BasicConv2d(image_shape[0], channels, 3)
        for modules in GOOGLENET_STAGES:
            for name, widths in modules.items():
                self.add_module(f"inception{name}", Inception(channels, *widths))
                one, _, three, _, five, projection = widths
                channels = one + three + five + projection
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        for modules in GOOGLENET_STAGES:
            x = self.maxpool(x)
            for name in modules:
                x = self.get_submodule(f"inception{name}")(x)
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


class SeparableBlock(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class MobileNetV1(nn.Module):
    """MobileNetV1 with a stem of stride 1 and 13 separable blocks; `width_multiplier` scales all channels."""

    def __init__(self, num_classes=10, image_shape=(3, 32, 32), width_multiplier=1.0, stem_stride=1):
        super().__init__()
        channels = int(32 * width_multiplier)
        self.conv1 = nn.Conv2d(image_shape[0], channels, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        blocks = []
        for width, stride in MOBILENETV1_BLOCKS:
            blocks.append(SeparableBlock(channels, int(width * width_multiplier), stride))
            channels = int(width * width_multiplier)
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        return self.linear(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    """BN-ReLU-1x1-BN-ReLU-3x3, and the result beside the input."""

    def __init__(self, in_channels, growth_rate):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv1(self.relu(self.norm1(x)))
        y = self.conv2(self.relu(self.norm2(y)))
        return torch.cat([x, y], 1)


def _make_dense_block(channels, growth_rate, layers):
    block = nn.Sequential()
    for layer in range(layers):
        block.add_module(f"denselayer{layer + 1}", DenseLayer(channels + layer * growth_rate, growth_rate))
    return block


def _make_transition(in_channels, channels):
    transition = nn.Sequential()
    transition.add_module("norm", nn.BatchNorm2d(in_channels))
    transition.add_module("relu", nn.ReLU(inplace=True))
    transition.add_module("conv", nn.Conv2d(in_channels, channels, 1, bias=False))
    transition.add_module("pool", nn.AvgPool2d(2))
    return transition


class DenseNet121(nn.Module):
    """DenseNet-BC with four blocks and a 3x3 stem of twice the growth rate's channels."""

    def __init__(self, num_classes=10, image_shape=(3, 32, 32), growth_rate=32, compression=0.5):
        super().__init__()
        channels = 2 * growth_rate
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        for number, layers in enumerate(DENSENET121_BLOCKS, start=1):
            self.features.add_module(f"denseblock{number}", _make_dense_block(channels, growth_rate, layers))
            channels += layers * growth_rate
            if number < len(DENSENET121_BLOCKS):
                kept = int(channels * compression)
                self.features.add_module(f"transition{number}", _make_transition(channels, kept))
                channels = kept
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.features.add_module("relu5", nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class AlexNet(nn.Module):
    """AlexNet with pools that do not overlap and narrow layers."""

    def __init__(self, num_classes=10, image_shape=(3, 32, 32)):
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=2, padding=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 96, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(96, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(4),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(64 * ((height + 1) // 32) * ((width + 1) // 32), 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(256, 1024),
            nn.ReLU(inplace=True),
            nn.Linear(1024, num_classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class LeNet5(nn.Module):
    """LeNet-5 with ReLUs and max pools."""

    def __init__(self, num_classes=10, image_shape=(1, 28, 28)):
        super().__init__()
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc2(self.relu(self.fc1(torch.flatten(x, 1)))))
        return self.fc3(x)


_MODELS = {
    "alexnet": AlexNet,
    "densenet121": DenseNet121,
    "googlenet": GoogLeNet,
    "lenet5": LeNet5,
    "mobilenetv1": MobileNetV1,
    "resnet18": ResNet18,
    "vgg16": partial(VGG16, False),
    "vgg16_bn": partial(VGG16, True),
}


def make_pytorch_model(name, num_classes=10, **options):
    """Return the PyTorch module of `cnnzoo.create_model(name, num_classes, **options)`, with PyTorch's own weights.

    Options are `image_shape` and the variants of the network; the rate of dropout is the network's own.
    """
    return _MODELS[name](num_classes=num_classes, **options)
