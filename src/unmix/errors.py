"""The one exception that is the user's business: a single line with the offending value and the remedy."""


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with status 2."""
