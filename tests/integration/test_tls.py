"""TLS and mutual TLS, by handshakes on real sockets."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import uvicorn
from pydantic import ValidationError

import trueup
from certificates import Authority, Pair
from serving import serving
from trueup.bootstrap import wired
from trueup.doors.api.server import configured
from trueup.doors.tls import Certificates, grpc_credentials
from trueup.errors import InvalidInput
from trueup.ledger.urls import Urls
from trueup.settings import Settings, Tls


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def own(ours: Authority) -> Pair:
    return ours.sign("server")


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextmanager
def listening(tls: Tls) -> Iterator[int]:
    """The port of a server that says hello over TLS."""
    running = uvicorn.Server(configured(hello, Settings(tls=tls)))
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(30)


def client(authority: Authority, shown: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def ask(port: int, context: ssl.SSLContext) -> tuple[str, bytes, str]:
    """TLS version, serial number of the server's certificate, and the answer's body."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        peer: Any = secure.getpeercert()
        version, answer = str(secure.version()), b""
        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while chunk := secure.recv(4096):
            answer += chunk
        if not answer:  # with TLS 1.3 the client has shaken hands before the server has judged its certificate
            raise ConnectionError("closed without an answer")
        return version, answer, peer["serialNumber"]


REFUSED = (ssl.SSLError, ConnectionError)


class TestServer:
    @pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
    def test_what_is_current_is_spoken(self, ours: Authority, own: Pair, version: str) -> None:
        context = client(ours)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
        with listening(Tls(certificate=own.certificate, key=own.key)) as port:
            spoken, answer, _ = ask(port, context)
        assert spoken == version
        assert answer.endswith(b"hello")
        assert b"strict-transport-security: max-age=31536000" in answer
        assert b"\nserver:" not in answer.lower()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_tls_1_1_is_refused(self, ours: Authority, own: Pair) -> None:
        context = client(ours)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with old_server(own) as port:  # the client could, if it were let
            assert ask(port, context)[0] == "TLSv1.1"
        with listening(Tls(certificate=own.certificate, key=own.key)) as port, pytest.raises(REFUSED):
            ask(port, context)

    def test_a_suite_without_forward_secrecy_is_refused(self, ours: Authority, own: Pair) -> None:
        context = client(ours)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
        with listening(Tls(certificate=own.certificate, key=own.key)) as port, pytest.raises(REFUSED):
            ask(port, context)

    def test_without_tls_nothing_is_said(self, own: Pair) -> None:
        with (
            listening(Tls(certificate=own.certificate, key=own.key)) as port,
            pytest.raises(httpx2.HTTPError),
        ):
            httpx2.get(f"http://127.0.0.1:{port}/")

    def test_a_key_may_have_a_password(self, tmp_path: Path, ours: Authority) -> None:
        locked = ours.sign("locked", password=b"hush hush")
        (tmp_path / "password").write_bytes(b"hush hush\n")
        tls = Tls(certificate=locked.certificate, key=locked.key, password_file=tmp_path / "password")
        with listening(tls) as port:
            assert ask(port, client(ours))[1].endswith(b"hello")

    def test_files_that_cannot_be_used_are_named_by_their_setting(self, tmp_path: Path, ours: Authority) -> None:
        locked, other = ours.sign("locked", password=b"hush hush"), ours.sign("other")
        (tmp_path / "wrong").write_text("wrong password")
        (tmp_path / "empty").write_text("")
        for tls in (
            Tls(certificate=locked.certificate, key=locked.key),
            Tls(certificate=locked.certificate, key=locked.key, password_file=tmp_path / "wrong"),
            Tls(certificate=locked.certificate, key=locked.key, password_file=tmp_path / "gone"),
            Tls(certificate=other.certificate, key=locked.certificate),
            Tls(certificate=other.certificate, key=ours.sign("third").key),
            Tls(certificate=tmp_path / "gone", key=other.key),
            Tls(certificate=tmp_path / "empty", key=other.key),
            Tls(certificate=other.certificate, key=other.key, client_certificates="required",
                client_ca=tmp_path / "empty"),
        ):  # fmt: skip
            for start in (Certificates, grpc_credentials):
                with pytest.raises(InvalidInput, match="TRUEUP_TLS__") as refused:
                    start(tls)
                text = f"{refused.value} {refused.value.next_step}"
                assert str(tmp_path) not in text
                assert "password " not in text
                assert "hush" not in text


class TestClients:
    @pytest.fixture
    def required(self, ours: Authority, own: Pair) -> Tls:
        return Tls(certificate=own.certificate, key=own.key, client_ca=ours.file, client_certificates="required")

    def test_whom_our_authority_knows_is_let_in(self, ours: Authority, required: Tls) -> None:
        with listening(required) as port:
            assert ask(port, client(ours, ours.sign("caller")))[1].endswith(b"hello")

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_all_others_are_not(self, tmp_path: Path, ours: Authority, required: Tls, version: ssl.TLSVersion) -> None:
        theirs = Authority(tmp_path, "theirs")
        with listening(required) as port:
            for shown in (None, theirs.sign("stranger"), ours.sign("expired", days=-1)):
                context = client(ours, shown)
                context.minimum_version = context.maximum_version = version
                with pytest.raises(REFUSED):
                    ask(port, context)

    def test_optional_takes_none_but_no_wrong_one(self, tmp_path: Path, ours: Authority, required: Tls) -> None:
        theirs = Authority(tmp_path, "theirs")
        with listening(required.model_copy(update={"client_certificates": "optional"})) as port:
            assert ask(port, client(ours))[1].endswith(b"hello")
            assert ask(port, client(ours, ours.sign("caller")))[1].endswith(b"hello")
            with pytest.raises(REFUSED):
                ask(port, client(ours, theirs.sign("stranger")))


class TestReload:
    def test_a_new_certificate_is_served_without_a_restart(self, ours: Authority, own: Pair) -> None:
        tls = Tls(certificate=own.certificate, key=own.key, reload_s=1)
        with listening(tls) as port:
            before = ask(port, client(ours))[2]
            ours.sign("server", into=own)
            _touched(own)
            waited = threading.Event()
            for _ in range(100):
                if ask(port, client(ours))[2] != before:
                    break
                waited.wait(0.1)
            assert ask(port, client(ours))[2] != before

    def test_one_that_cannot_be_used_leaves_the_old_one(self, ours: Authority, own: Pair, capfd: Any) -> None:
        certificates = Certificates(Tls(certificate=own.certificate, key=own.key))
        assert certificates.refresh() is False
        good = own.certificate.read_bytes()
        own.certificate.write_bytes(b"half a fi")
        _touched(own)
        assert certificates.refresh() is False
        assert str(own.certificate) not in "".join(capfd.readouterr())
        own.certificate.write_bytes(good)
        _touched(own, 2)
        assert certificates.refresh() is True


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"key": "k"}, {"client_certificates": "required"}, {"certificate": "c", "client_certificates": "required"},
            {"certificate": "c", "client_ca": "a"}, {"certificate": "c", "client_certificates": "sometimes"},
            {"password_file": "p"},
        ],
        ids=str,
    )  # fmt: skip
    def test_half_of_tls_is_no_setting(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Tls(**wrong)


class TestGrpc:
    @contextmanager
    def serving(self, tls: Tls) -> Iterator[int]:
        from concurrent.futures import ThreadPoolExecutor

        def echo(request: bytes, _: Any) -> bytes:
            return request

        handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
        running = grpc.server(ThreadPoolExecutor(2))
        running.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])
        port = running.add_secure_port("127.0.0.1:0", grpc_credentials(tls))
        running.start()
        try:
            yield port
        finally:
            running.stop(None).wait()

    def ask(self, port: int, authority: Authority, shown: Pair | None = None) -> bytes:
        own = (None, None) if shown is None else (shown.key.read_bytes(), shown.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *own)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            answered: bytes = channel.unary_unary("/t/Echo")(b"hello", timeout=5)
            return answered

    def test_it_is_off_without_a_certificate(self) -> None:
        assert grpc_credentials(Tls()) is None

    def test_the_same_settings_serve_grpc(self, tmp_path: Path, ours: Authority) -> None:
        locked = ours.sign("locked", password=b"hush hush")
        (tmp_path / "password").write_bytes(b"hush hush\n")
        tls = Tls(certificate=locked.certificate, key=locked.key, password_file=tmp_path / "password")
        with self.serving(tls) as port:
            assert self.ask(port, ours) == b"hello"

    def test_client_certificates_are_required_where_they_are(self, tmp_path: Path, ours: Authority, own: Pair) -> None:
        tls = Tls(certificate=own.certificate, key=own.key, client_ca=ours.file, client_certificates="required")
        with self.serving(tls) as port:
            assert self.ask(port, ours, ours.sign("caller")) == b"hello"
            for shown in (None, Authority(tmp_path, "theirs").sign("stranger")):
                with pytest.raises(grpc.RpcError):
                    self.ask(port, ours, shown)

    def test_a_new_certificate_is_served_without_a_restart(self, tmp_path: Path, ours: Authority, own: Pair) -> None:
        theirs = Authority(tmp_path, "theirs")
        with self.serving(Tls(certificate=own.certificate, key=own.key)) as port:
            assert self.ask(port, ours) == b"hello"
            theirs.sign("server", into=own)
            _touched(own)
            assert self.ask(port, theirs) == b"hello"


def test_the_whole_door_over_tls(ours: Authority, own: Pair, fresh_database: Urls, tmp_path: Path) -> None:
    tls = Tls(certificate=own.certificate, key=own.key)
    settings = Settings(data_dir=tmp_path / "data", tls=tls)
    with (
        trueup.Trueup(wired(settings, fresh_database)) as up,
        serving(up) as door,
        httpx2.Client(verify=client(ours)) as secure,
    ):
        for path in ("/health/ready", "/v2/health/ready", "/v2/models", "/v1/deployments", "/nothing"):
            answer = secure.get(f"https://{door.address}{path}", headers=door.headers())
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert answer.status_code == (404 if path == "/nothing" else 200)


def _touched(pair: Pair, later: int = 1) -> None:
    """As if written at another time: two writes can fall into one tick of the file system's clock."""
    for file in (pair.certificate, pair.key):
        now = file.stat().st_mtime_ns
        os.utime(file, ns=(now, now + later * 1_000_000_000))


@contextmanager
def old_server(pair: Pair) -> Iterator[int]:
    """Speaks TLS 1.1 and answers one request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as bound:

        def answer() -> None:
            raw, _ = bound.accept()
            with context.wrap_socket(raw, server_side=True) as secure:
                secure.recv(4096)
                secure.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield bound.getsockname()[1]
        thread.join(10)
