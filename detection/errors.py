"""The one exception that means "the user can mend this": tools print its sentence and exit with status 2."""

from collections.abc import Sequence

_LISTED = 20
"""How many names a message lists before it leaves some out."""


class UserError(Exception):
    """A mistake in settings, files or data. The message names the file, the object and the fix, in one sentence."""


def listed(names: Sequence[object]) -> str:
    """Names for a message; of many the first ones and the last."""
    words = [str(name) for name in names]
    return ", ".join(words) if len(words) <= _LISTED else f"{', '.join(words[: _LISTED - 1])} ... {words[-1]}"
