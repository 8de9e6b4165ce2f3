"""Language models, and where in them activations are read. Nothing here knows of corpora or SAEs."""
