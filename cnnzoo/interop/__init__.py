"""Weights in and out, under PyTorch's names and in its layouts."""

from cnnzoo.interop.hex_weights import load_hex_weights, save_hex_weights
from cnnzoo.interop.weights import load_weights, save_weights

__all__ = ["load_hex_weights", "load_weights", "save_hex_weights", "save_weights"]
