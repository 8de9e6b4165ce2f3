"""Shuffled batches of activations, from the running model or from disk. Never imports sae/."""
