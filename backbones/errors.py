"""The one exception of this package that means "the user can mend this"."""


class BackboneError(Exception):
    """A backbone that cannot be built as asked. Its message is one sentence: object, reason, fix."""
