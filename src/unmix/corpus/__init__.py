"""Documents in, split by hash; token sequences out. Nothing here knows of models or SAEs."""
