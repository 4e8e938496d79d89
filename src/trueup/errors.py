"""Every error trueup raises on purpose, in the words of the core.

TrueupError
├── InvalidInput                 the caller can mend it
│   ├── ContractError            a contract does not say what a contract must
│   ├── InstanceErrors           instances break their contract (carries FieldErrors)
│   ├── InvalidFile              a file cannot be read as what it claims to be
│   └── InvalidQuery             a filter or argument is out of bounds
├── NotFound                     deployment, version, prediction or contract unknown
├── Conflict                     the same identity with other content; a name taken
├── Forbidden                    authenticated, but not allowed
├── Unauthenticated              no or unknown credentials
├── ScoringError                 the model could not answer
│   ├── ModelRefused             digest, pickle or library versions do not allow loading
│   └── ParityError              two runtimes of one model disagree
├── Undelivered                  nobody has taken a message (says whether trying again may help)
├── Unavailable                  try again later
│   ├── LedgerUnavailable        nothing was booked, nothing may be answered
│   ├── Overloaded               a bound is reached
│   │   └── RateLimited          the caller's own bound (says after how many seconds to come again)
│   └── TimedOut                 the caller's deadline passed first
└── MissingExtra                 an optional dependency is not installed (names the extra)

Messages never hold values of instances, SQL, stack traces or paths of the server.
Each door owns one table from these classes to its own codes.
"""

from __future__ import annotations

from trueup.domain.contract import FieldError


class TrueupError(Exception):
    """Root of the family. ``next_step`` tells the reader what to do about it."""

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class InvalidInput(TrueupError):
    """The caller can mend it."""


class ContractError(InvalidInput):
    """A contract does not say what a contract must."""


class InstanceErrors(InvalidInput):
    """Instances break their contract."""

    def __init__(self, errors: tuple[FieldError, ...], total: int | None = None) -> None:
        self.errors = errors
        self.total = len(errors) if total is None else total
        super().__init__(
            f"{self.total} field error(s) in the instances",
            next_step="mend the named fields; `trueup contract show` lists what each expects",
        )


class InvalidFile(InvalidInput):
    """A file cannot be read as what it claims to be."""


class InvalidQuery(InvalidInput):
    """A filter or argument is out of bounds."""


class NotFound(TrueupError):
    """Deployment, version, prediction or contract unknown."""


def no_deployment() -> NotFound:
    """No deployment of that name. In the same words wherever it is said, and without the name."""
    return NotFound("no such deployment", next_step="`trueup deploy` makes one")


def no_contract() -> NotFound:
    """No contract of that name and version."""
    return NotFound("no such contract", next_step="deploy a model with it first")


def no_prediction() -> NotFound:
    """No prediction of that id."""
    return NotFound("no such prediction", next_step="`trueup predictions` lists what there is")


def no_letter() -> NotFound:
    """No dead letter of that id."""
    return NotFound("no such dead letter", next_step="`trueup dlq list` lists what there is")


def no_alert() -> NotFound:
    """No alert of that id."""
    return NotFound("no such alert", next_step="`trueup alert list` lists what there is")


def no_silence() -> NotFound:
    """No silence of that id."""
    return NotFound("no such silence", next_step="`trueup alert silences` lists what there is")


def no_rule() -> NotFound:
    """No alert rule of that name."""
    return NotFound("no such alert rule", next_step="`trueup alert rules` lists what there is")


class Conflict(TrueupError):
    """The same identity with other content, or a name that is taken."""


class Forbidden(TrueupError):
    """Authenticated, but not allowed."""


class Unauthenticated(TrueupError):
    """No or unknown credentials."""


class ScoringError(TrueupError):
    """The model could not answer."""


class ModelRefused(ScoringError):
    """Digest, pickle policy or library versions do not allow loading the model."""


class ParityError(ScoringError):
    """Two runtimes of one model disagree by more than is allowed."""


class Unavailable(TrueupError):
    """Try again later."""


class LedgerUnavailable(Unavailable):
    """Nothing was booked, so nothing may be answered."""


class Fenced(TrueupError):
    """Another owner has moved a stream's position on: nothing was booked, and this one must look anew."""


class StreamFailed(TrueupError):
    """A stream cannot go on, and trying again does not help."""


class Overloaded(Unavailable):
    """A bound is reached."""


class RateLimited(Overloaded):
    """The caller asks more often than they may. ``retry_after_s`` seconds later there is room again."""

    def __init__(self, message: str, *, next_step: str = "", retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, next_step=next_step or f"try again after {retry_after_s:.3g} s")


class TimedOut(Unavailable):
    """The caller's deadline passed before there was an answer."""


class Undelivered(TrueupError):
    """Nobody has taken a message. ``is_passing`` says whether trying again may help, and ``retry_after_s`` after how
    many seconds where the other side says so."""

    def __init__(
        self, message: str, *, is_passing: bool, next_step: str = "", retry_after_s: float | None = None
    ) -> None:
        self.is_passing = is_passing
        self.retry_after_s = retry_after_s
        super().__init__(message, next_step=next_step)


class MissingExtra(TrueupError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra = extra
        super().__init__(f"{purpose} needs the optional extra '{extra}'", next_step=f"pip install 'trueup[{extra}]'")
