"""The convolutions that tests and benchmarks run: those of the networks, and those that fit nothing evenly."""

from collections import Counter
from collections.abc import Iterable

from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.models.registry import build_graph

MODELS = ("vgg16", "vgg16_bn", "resnet18")

TAILS = (
    # Channels around the widths of vectors and panels, rows around those of tiles and blocks.
    ConvolutionShape(1, 5, 5, 1, 1, 1),
    ConvolutionShape(3, 7, 9, 15, 17, 3, 1, 1),
    ConvolutionShape(2, 7, 7, 16, 33, 3, 1, 1),
    ConvolutionShape(1, 97, 1, 31, 31, 1),
    ConvolutionShape(5, 19, 1, 7, 47, 1),
    # Kernels of every kind: even, large, larger than the image, padded beyond the half, wide strides.
    ConvolutionShape(3, 11, 8, 6, 10, 2, 2, 1),
    ConvolutionShape(2, 32, 32, 3, 64, 11, 2, 5),
    ConvolutionShape(2, 8, 8, 64, 96, 5, 1, 2),
    ConvolutionShape(2, 14, 13, 5, 9, 7, 3, 3),
    ConvolutionShape(2, 3, 2, 9, 20, 5, 1, 4),
    ConvolutionShape(2, 6, 5, 4, 3, 3, 1, 3),
    ConvolutionShape(2, 9, 10, 8, 8, 1, 3),
    ConvolutionShape(2, 4, 4, 8, 12, 1, 2, 1),
    ConvolutionShape(3, 2, 3, 5, 4, 2, 4, 2),
    # Sums cut into segments of the depth; weight gradients of few pixels and of many, in blocks of rows and of columns.
    ConvolutionShape(2, 6, 6, 130, 70, 3, 1, 1),
    ConvolutionShape(1, 12, 12, 301, 130, 3, 1, 1),
    ConvolutionShape(20, 3, 3, 70, 530, 1),
    ConvolutionShape(3, 33, 32, 5, 9, 3, 1, 1),
    ConvolutionShape(1, 57, 56, 67, 35, 3, 1, 1),
    ConvolutionShape(1, 40, 40, 600, 300, 1),
    # Rows of a leading dimension that is a multiple of 4 KiB are gathered.
    ConvolutionShape(2, 10, 10, 1024, 24, 1),
)


def list_convolutions(models: Iterable[str], images: int) -> dict[ConvolutionShape, Counter[str]]:
    """Return each distinct convolution of some models, linear layers included, and how many each model has of it."""
    found: dict[ConvolutionShape, Counter[str]] = {}
    for model in models:
        for node in build_graph(model).nodes:
            if hasattr(node.operator, "shape"):
                shape = node.operator.shape(images, node.inputs[0].extent)
                found.setdefault(shape, Counter())[model] += 1
    return found
