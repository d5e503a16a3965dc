"""The one exception users see: what was got, what was expected, and the next move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class DgmvlcError(Exception):
    """A problem the user can act on.

    message: what was got and what was expected.  hint: the next move, one sentence.
    exit_code: 1 failure, 2 usage (a wrong name, key or option), 3 some subjects failed.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(DgmvlcError):
    """A wrong name, key, level or option: exit code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, exit_code=2)


@contextlib.contextmanager
def made_by(command: str) -> Iterator[None]:
    """Of a damaged file of the workspace say which command makes it again."""
    try:
        yield
    except DgmvlcError as error:
        hint = f"Delete that file and run `{command}` again."
        raise DgmvlcError(error.message, hint) from error
