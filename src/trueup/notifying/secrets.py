"""Secrets of one receiver: from the settings, or from files, which are read again each time so that they can change."""

from __future__ import annotations

from trueup.errors import InvalidInput
from trueup.settings import Notifying

MOST_CHARS = 10_000


class Secrets:
    """What a receiver may ask for. Never shown."""

    def __init__(self, receiver: str, bounds: Notifying) -> None:
        self._receiver = receiver
        self._given = bounds.secrets.get(receiver, {})
        self._folder = bounds.secrets_folder

    def needed(self, name: str) -> str:
        """Raises InvalidInput where there is none."""
        found = self.find(name)
        if not found:
            raise InvalidInput(
                f"receiver {self._receiver} has no secret '{name}'",
                next_step=f"set it in TRUEUP_NOTIFY__SECRETS, or as the file {self._receiver}.{name}",
            )
        return found

    def find(self, name: str) -> str | None:
        """The settings' come first."""
        if name in self._given:
            return self._given[name].get_secret_value()
        return self._files().get(name)

    def all(self) -> dict[str, str]:
        """By name."""
        return self._files() | {name: value.get_secret_value() for name, value in self._given.items()}

    def _files(self) -> dict[str, str]:
        if self._folder is None:
            return {}
        prefix = f"{self._receiver}."
        try:
            return {path.name.removeprefix(prefix): _read(path) for path in self._folder.glob(f"{prefix}*")}
        except (OSError, UnicodeDecodeError):
            raise InvalidInput(
                f"the secrets of receiver {self._receiver} cannot be read", next_step="check their files' rights"
            ) from None


def _read(path: object) -> str:
    with open(str(path), encoding="utf-8") as file:
        return file.read(MOST_CHARS).strip()
