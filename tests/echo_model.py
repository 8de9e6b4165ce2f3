"""A stand-in for a language model whose activations tell where they come from."""

import torch


class Echo:
    """Answers each token's id and place as its activation, so that batches can be read back."""

    def __init__(self):
        self.passes = 0

    def activations(self, ids_NT, hooks):
        self.passes += 1
        place = torch.arange(ids_NT.shape[1]).expand_as(ids_NT)
        return {hook: torch.stack([ids_NT, place], -1).float() for hook in hooks}

    def hook_widths(self, hooks):
        return dict.fromkeys(hooks, 2)
