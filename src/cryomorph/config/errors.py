"""Errors that the user can fix: printed as one sentence, without a traceback."""


class InputError(Exception):
    """Something given by the user is wrong: the message says what was found, what was expected and what to do.

    No `ValueError`: parsers catch those of a config and wrap them in words of their own.
    """
