"""The one exception that is the user's business: a single line with the offending value and the remedy."""


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with status 2."""


LESS_MEMORY = "lower training.batch_tokens, sae.features or activations.chunk_sequences, or train fewer members at once"
"""The remedy of a run for which memory is too small, before it begins and inside it."""
