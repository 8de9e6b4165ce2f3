"""The training step of one SAE: loss and gradients. Imports torch (and numba) alone."""

from unmix.kernels import code_cache as code_cache
