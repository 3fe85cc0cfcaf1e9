"""The one exception a user's input can raise: the command line prints its message and exits with code 2."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names the file, line or key, what was found and what to do."""
