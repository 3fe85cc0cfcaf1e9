"""The one exception a user's input can raise, and the messages of other errors inside it."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names the file, line or key, what was found and what to do."""


def in_one_line(error: object, most: int = 200) -> str:
    """Return an error's message, or another text, as one line of so many characters at most."""
    return " ".join(str(error).split())[:most]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
