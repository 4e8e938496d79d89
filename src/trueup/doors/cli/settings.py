"""Settings as the command line reads them, and who is at the keyboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trueup.settings import Settings


def read_settings() -> Settings:
    """The settings of the environment. Raises InvalidInput naming the wrong variables, not their values."""
    from pydantic import ValidationError

    from trueup.errors import InvalidInput
    from trueup.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        names = sorted({"TRUEUP_" + "__".join(str(part) for part in e["loc"]).upper() for e in error.errors()})
        raise InvalidInput(
            f"wrong setting: {', '.join(names)}", next_step="docs/reference/settings.md lists what each takes"
        ) from None


def actor() -> str:
    """The operating system's user, for the audit."""
    import getpass

    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):
        return "user:unknown"
