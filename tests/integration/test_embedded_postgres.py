"""The embedded server: shared, found again, and gone with its last user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from trueup.ledger.embedded import EmbeddedPostgres

HOLD = """
import sys, time
from pathlib import Path
from trueup.ledger.embedded import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1])).start()
print("held", flush=True)
time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def one(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT 1").fetchone()


def test_two_users_share_it_and_the_last_one_stops_it(tmp_path: Path):
    first, second = EmbeddedPostgres(tmp_path), EmbeddedPostgres(tmp_path)
    urls = first.start()
    assert second.start() == urls
    first.stop()
    assert one(urls.owner) == (1,)
    second.stop()
    assert not second.is_running()


def test_it_survives_a_killed_user_and_is_stopped_by_the_next_one(tmp_path: Path):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    again = EmbeddedPostgres(tmp_path)
    assert again.is_running()
    assert one(again.start().owner) == (1,)
    again.stop()
    assert not again.is_running()


def test_a_users_end_does_not_take_it_from_another_process(tmp_path: Path):
    process = holder(tmp_path)
    mine = EmbeddedPostgres(tmp_path)
    urls = mine.start()
    mine.stop()
    assert one(urls.owner) == (1,)
    process.kill()
    process.wait()
    last = EmbeddedPostgres(tmp_path)
    last.start()
    last.stop()
    assert not last.is_running()


def test_it_comes_back_with_its_data_after_the_server_itself_was_killed(tmp_path: Path):
    postgres = EmbeddedPostgres(tmp_path)
    urls = postgres.start()
    with psycopg.connect(urls.owner) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    pid = int((tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    again = EmbeddedPostgres(tmp_path)
    deadline = time.monotonic() + 30
    while again.is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
    again.start()
    with psycopg.connect(urls.owner) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    again.stop()
    postgres.stop()


def test_ten_starters_at_once_make_one_cluster(tmp_path: Path):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    try:
        assert [p.stdout.readline() for p in processes if p.stdout] == ["held\n"] * 10
    finally:
        for process in processes:
            process.kill()
            process.wait()
    last = EmbeddedPostgres(tmp_path)
    last.start()
    last.stop()
    assert not last.is_running()


def test_writes_are_flushed_to_disk_and_pages_are_checked(server: EmbeddedPostgres):
    with psycopg.connect(server.urls("postgres").owner) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert connection.execute(f"SHOW {name}").fetchone() == ("on",)
