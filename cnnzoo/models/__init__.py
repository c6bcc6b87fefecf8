"""The networks, one page each, and how to make one by name."""

from cnnzoo.models import alexnet, densenet, googlenet, lenet, mobilenet, resnet, vgg
from cnnzoo.models.registry import create_model, get_model, list_models

__all__ = [
    "alexnet",
    "create_model",
    "densenet",
    "get_model",
    "googlenet",
    "lenet",
    "list_models",
    "mobilenet",
    "resnet",
    "vgg",
]
