"""The networks, one page each, and how to make one by name."""

from cnnzoo.models import resnet, vgg
from cnnzoo.models.registry import create_model, get_model, list_models

__all__ = ["create_model", "get_model", "list_models", "resnet", "vgg"]
