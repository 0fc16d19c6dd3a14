"""The one exception that means "the user can mend this": tools print its sentence and exit with status 2."""


class UserError(Exception):
    """A mistake in settings, files or data. The message names the file, the object and the fix, in one sentence."""
