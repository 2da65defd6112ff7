"""What the supervisor of child processes and services reports to the person who started it."""

from callboard_runtime.errors import CallboardError


class EmbeddedError(CallboardError):
    """The embedded services cannot run; the text says what is wrong and what to do."""

    code = "EMBEDDED"


class ChildFailed(EmbeddedError):
    """A supervised process did not start, or keeps ending; the text holds the end of its log."""

    code = "CHILD_FAILED"
