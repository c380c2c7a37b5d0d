"""What can go wrong with the stack, as one sentence that says what to do."""


class StackError(Exception):
    """Shown to the user as it is, without a traceback."""
