"""How a server is reached: its address, the caller's key, TLS, and the bounds of one answer. Shared by both clients."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trueup.client.calls import Call
from trueup.client.errors import UnexpectedAnswer, Unreachable, error_of
from trueup.client.retrying import AGAIN, Failed, Retries, retry_after
from trueup.errors import InvalidInput, MissingExtra, TimedOut, TrueupError

try:
    import httpx2
except ImportError:
    raise MissingExtra("client", "trueup.client") from None

T = TypeVar("T")
Key = str | Callable[[], str] | None
Path = str | os.PathLike[str]
FAILURES = (httpx2.HTTPError, httpx2.StreamError, TrueupError)  # what an attempt may end with
_AGAIN = "repeat it under the same key: whether or not it was booked, there will be one prediction"


@dataclass(frozen=True)
class Options:
    """What both clients are made with, checked. The key is never shown."""

    url: str
    key: Key = field(repr=False)
    timeout: float
    attempt_timeout: float
    retries: Retries
    connections: int
    answer_bytes: int

    def __post_init__(self) -> None:
        url = _url(self.url)
        if url.userinfo or url.query or url.fragment:
            raise InvalidInput("the address holds more than a place", next_step="give the key as `key=`")
        bounds = (self.timeout, self.attempt_timeout, self.connections, self.answer_bytes)
        if not all(0 < bound < float("inf") for bound in bounds):
            raise InvalidInput("timeouts and bounds are finite numbers above 0")
        object.__setattr__(self, "url", str(url).rstrip("/"))

    def blocking(self, context: ssl.SSLContext | None) -> httpx2.Client:
        """Connections for ordinary code."""
        return httpx2.Client(verify=context or True, limits=self._limits(), follow_redirects=False)

    def asynchronous(self, context: ssl.SSLContext | None) -> httpx2.AsyncClient:
        """Connections for asynchronous code."""
        return httpx2.AsyncClient(verify=context or True, limits=self._limits(), follow_redirects=False)

    def _limits(self) -> httpx2.Limits:
        return httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)

    def request(self, call: Call[Any], seconds: float) -> dict[str, Any]:
        """One attempt of a call, as httpx2 takes it. Raises InvalidInput for a key that no header holds."""
        # An answer is read as it was sent, so that a small one cannot unpack into a large one.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if call.content is not None:
            headers["Content-Type"] = "application/json"
        if call.with_key and self.key is not None:
            headers["Authorization"] = f"Bearer {_key(self.key)}"
        return {
            "method": call.method,
            "url": self.url + call.path,
            "params": call.parameters,
            "content": call.content,
            "headers": headers,
            "timeout": httpx2.Timeout(seconds),
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one attempt."""

    status: int
    content: bytes
    retry_after_s: float | None

    def failure(self, call: Call[Any]) -> TrueupError | None:
        """The error that it stands for, if it is one."""
        if 200 <= self.status < 300 or (call.probe and self.status == 503):
            return None
        return error_of(self.status, self.content, self.retry_after_s)


class Collecting:
    """Takes an answer piece by piece. Raises UnexpectedAnswer beyond the bound, TimedOut after the time."""

    def __init__(self, response: httpx2.Response, most: int, clock: Callable[[], float], seconds: float) -> None:
        self._response = response
        self._most = most
        self._clock = clock
        self._until = clock() + seconds
        self._pieces: list[bytes] = []
        self._held = 0
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnexpectedAnswer("the answer is packed, which was not asked for")

    def add(self, piece: bytes) -> None:
        """One piece."""
        self._held += len(piece)
        if self._held > self._most:
            raise UnexpectedAnswer(
                f"the answer has more than {self._most} bytes", next_step="ask for less, or raise `answer_bytes`"
            )
        if self._clock() > self._until:
            raise timed_out()
        self._pieces.append(piece)

    def reply(self) -> Reply:
        """The whole of it."""
        after = retry_after(self._response.headers.get("retry-after"))
        return Reply(self._response.status_code, b"".join(self._pieces), after)


def outcome(call: Call[T], found: Reply | Exception) -> T | Failed:
    """What an attempt came to. Raises what is nobody's failure."""
    if isinstance(found, Reply):
        error = found.failure(call)
        if error is None:
            try:
                return call.read(found.content)
            except UnexpectedAnswer as unexpected:
                if not call.probe:
                    raise
                error = unexpected  # something on the way says 503 in words of its own
        return Failed(error, found.status in AGAIN, found.retry_after_s)
    if isinstance(found, (httpx2.TimeoutException, TimedOut)):
        return Failed(timed_out(), again=True)
    if isinstance(found, (httpx2.TransportError, httpx2.StreamError)):
        if _certificate(found):
            return Failed(Unreachable("the server's certificate is not trusted", next_step="see `ca=`"), again=False)
        return Failed(Unreachable("the server does not answer", next_step=_AGAIN), again=True)
    raise found


def timed_out() -> TimedOut:
    """No answer in time."""
    return TimedOut("the server did not answer in time", next_step=_AGAIN)


def tls(ca: Path | None, certificate: Path | tuple[Path, Path] | None, given: ssl.SSLContext | None) -> Any:
    """The context for a CA file and a client's certificate (one file, or it and its key). Raises InvalidInput."""
    if given is not None and (ca is not None or certificate is not None):
        raise InvalidInput("`ssl_context` goes without `ca` and `certificate`")
    if given is not None or (ca is None and certificate is None):
        return given
    try:
        context = httpx2.create_ssl_context() if ca is None else ssl.create_default_context(cafile=ca)
        if isinstance(certificate, tuple):
            context.load_cert_chain(*certificate, password=b"")  # without one, OpenSSL asks at the terminal
        elif certificate is not None:
            context.load_cert_chain(certificate, password=b"")
    except (OSError, ssl.SSLError):
        raise InvalidInput(
            "a file of `ca` or `certificate` cannot be used",
            next_step="give PEM files; a key with a password goes into an `ssl_context`",
        ) from None
    return context


def _url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, TypeError):
        raise InvalidInput("the address is none", next_step="give https://host[:port]") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput("the address is none", next_step="give https://host[:port]")
    return url


def _key(key: str | Callable[[], str]) -> str:
    text = key if isinstance(key, str) else key()
    if not (text.isascii() and text.isprintable() and text):
        raise InvalidInput("the API key or token is not one line of ASCII text")
    return text


def _certificate(error: BaseException | None) -> bool:
    """Whether the other side's certificate is the reason."""
    for _ in range(10):
        if error is None or isinstance(error, ssl.SSLCertVerificationError):
            return error is not None
        error = error.__cause__ or error.__context__
    return False
