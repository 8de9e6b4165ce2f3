"""The training step of one SAE: loss and gradients. Imports torch (and numba) alone."""
