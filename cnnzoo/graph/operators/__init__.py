"""The operators: shape rule, forward and backward of each in one place."""
