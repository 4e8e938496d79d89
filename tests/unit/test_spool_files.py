"""The files of a spool on a real disk that is cut off, full, failing, damaged or somebody else's."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from trueup.errors import LedgerUnavailable, Overloaded
from trueup.ledger import spool_files
from trueup.ledger.spool_files import SpoolFolder, folders
from trueup.ledger.spool_frames import Damage, Frame, Kind
from trueup.settings import Limits


def opened(root: Path, **limits: int) -> tuple[SpoolFolder, list[bytes]]:
    found: list[bytes] = []
    folder = SpoolFolder.open(root, Limits(**limits))
    folder.recover(lambda frame: found.append(frame.payload))
    return folder, found


def kept(folder: SpoolFolder, *payloads: bytes) -> None:
    for payload in payloads:
        folder.sync(folder.append(Kind.UNREPEATABLE, 1, payload))


def drained(folder: SpoolFolder, most: int = 10**9) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < most:
        before = len(found)
        for item, done in folder.waiting():
            if len(found) == most:
                return found
            if isinstance(item, Frame):
                found.append(item.payload)
            done()
        if len(found) == before:
            return found
    return found


def segments(folder: SpoolFolder) -> list[Path]:
    return sorted(folder.path.glob("*.segment"))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_synced_is_there_after_a_restart_and_drains_in_order(tmp_path: Path):
    folder, _ = opened(tmp_path)
    kept(folder, b"a", b"b", b"c")
    assert drained(folder, 1) == [b"a"]
    folder.close()
    again, found = opened(tmp_path)
    assert found == [b"b", b"c"]
    assert (again.rows, drained(again), again.rows, again.bytes) == (2, [b"b", b"c"], 0, 0)
    again.close()
    assert opened(tmp_path)[1] == []


def test_an_end_torn_at_any_byte_costs_nobody_an_answer(tmp_path: Path):
    folder, _ = opened(tmp_path)
    kept(folder, b"first", b"second")
    folder.close()
    (path,) = segments(folder)
    data = path.read_bytes()
    for cut in range(len(data) // 2 + 1, len(data)):
        path.write_bytes(data[:cut])
        again, found = opened(tmp_path)
        assert found == [b"first"]
        assert again.dead == 0
        again.close()


def test_a_position_that_is_lost_or_too_old_drains_again_and_skips_nothing(tmp_path: Path):
    folder, _ = opened(tmp_path)
    kept(folder, b"a", b"b", b"c")
    drained(folder, 2)
    folder.close()
    (folder.path / "position").write_bytes(b"no such position, whatever it was")
    assert opened(tmp_path)[1] == [b"a", b"b", b"c"]


def test_a_record_changed_on_disk_is_told_apart_from_a_torn_end(tmp_path: Path):
    folder, _ = opened(tmp_path)
    kept(folder, b"first", b"second", b"third")
    folder.close()
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    data[data.index(b"second")] ^= 1
    path.write_bytes(data)
    again, found = opened(tmp_path)
    assert found == [b"first", b"third"]
    damages = [item for item, _ in again.waiting() if isinstance(item, Damage)]
    assert [d.torn for d in damages] == [False]
    assert b"recond" in damages[0].payload


def test_what_is_not_synced_is_not_drained(tmp_path: Path):
    folder, _ = opened(tmp_path)
    written = folder.append(Kind.UNREPEATABLE, 1, b"a")
    assert drained(folder) == []
    folder.sync(written)
    assert drained(folder) == [b"a"]


def test_segments_rotate_and_go_when_they_are_drained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool_files, "SEGMENT_BYTES", 200)
    folder, _ = opened(tmp_path)
    sent = [bytes([i]) * 50 for i in range(20)]
    kept(folder, *sent)
    assert len(segments(folder)) > 5
    assert drained(folder) == sent
    assert len(segments(folder)) == 1
    kept(folder, b"more")
    folder.close()
    assert opened(tmp_path)[1] == [b"more"]


def test_records_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool_files, "_READ_BYTES", 100)
    folder, _ = opened(tmp_path)
    sent = [bytes([i]) * (i * 40) for i in range(10)]
    kept(folder, *sent)
    assert drained(folder) == sent


def test_one_fsync_serves_all_who_wrote_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = os.fdatasync, []
    folder, _ = opened(tmp_path)

    def until_all_wrote(fd: int) -> None:
        calls.append(fd)
        while folder.rows < 20:
            time.sleep(0.001)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", until_all_wrote)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda i: kept(folder, str(i).encode()), range(20)))
    assert len(calls) == 2
    assert sorted(drained(folder)) == sorted(str(i).encode() for i in range(20))


def test_a_failed_fsync_is_never_repeated_and_its_rows_are_nobodys_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spool_files, "_REST_S", 0.0)
    folder, _ = opened(tmp_path)
    kept(folder, b"kept")
    synced: list[int] = []
    real = os.fdatasync

    def failing(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 1:
            raise OSError(5, "input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", failing)
    one, two = (folder.append(Kind.UNREPEATABLE, 1, payload) for payload in (b"lost", b"lost too"))
    for written in (one, two, two):
        with pytest.raises(LedgerUnavailable):
            folder.sync(written)
    assert len(synced) == 1
    kept(folder, b"later")
    assert len(set(synced)) == 2  # another file
    assert folder.failures == 1
    assert (folder.rows, drained(folder)) == (2, [b"kept", b"later"])
    folder.close()
    assert opened(tmp_path)[1] == []


def test_a_full_disk_refuses_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool_files, "_REST_S", 0.0)
    folder, _ = opened(tmp_path)
    kept(folder, b"kept")
    with no_file_above(100):
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                folder.append(Kind.UNREPEATABLE, 1, b"x" * 300)
    kept(folder, b"later")
    assert (folder.rows, folder.failures) == (2, 3)
    folder.close()
    again, found = opened(tmp_path)
    assert found == [b"kept", b"later"]
    assert again.dead == 0


def test_after_a_failure_the_disk_rests(tmp_path: Path):
    folder, _ = opened(tmp_path)
    with no_file_above(10), pytest.raises(LedgerUnavailable):
        folder.append(Kind.UNREPEATABLE, 1, b"x" * 300)
    assert not folder.has_room
    with pytest.raises(LedgerUnavailable):
        folder.append(Kind.UNREPEATABLE, 1, b"small")
    assert folder.failures == 1


def test_bytes_and_rows_are_bounded_and_draining_makes_room(tmp_path: Path):
    folder, _ = opened(tmp_path, spool_bytes=4096)
    with pytest.raises(Overloaded):
        kept(folder, *[b"x" * 100] * 100)
    assert folder.bytes <= 4096
    drained(folder)
    kept(folder, b"x" * 100)
    folder.close()
    folder, _ = opened(tmp_path / "rows", spool_rows=3)
    kept(folder, b"a", b"b", b"c")
    assert not folder.has_room
    with pytest.raises(Overloaded):
        folder.append(Kind.UNREPEATABLE, 1, b"d")


def test_dead_letters_are_kept_counted_and_bounded_with_the_rest(tmp_path: Path):
    folder, _ = opened(tmp_path, spool_bytes=4096)
    folder.set_aside("why", Kind.BOOKING, b"x" * 3_000)
    with pytest.raises(Overloaded):
        folder.append(Kind.UNREPEATABLE, 1, b"x" * 2_000)
    folder.close()
    assert opened(tmp_path)[0].dead == 1


def test_nobody_else_may_read_it(tmp_path: Path):
    folder, _ = opened(tmp_path / "spool")
    kept(folder, b"a")
    folder.set_aside("why", Kind.BOOKING, b"")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_folder_has_one_owner_and_is_adopted_when_that_one_is_killed(tmp_path: Path):
    program = (
        "import sys, time, pathlib\n"
        "from trueup.ledger.spool_files import SpoolFolder\n"
        "from trueup.ledger.spool_frames import Kind\n"
        "from trueup.settings import Limits\n"
        "folder = SpoolFolder.open(pathlib.Path(sys.argv[1]), Limits()); folder.recover(lambda _: None)\n"
        "folder.sync(folder.append(Kind.UNREPEATABLE, 1, b'of the other'))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    mine, _ = opened(tmp_path)
    kept(mine, b"mine")
    assert folders(tmp_path) == [tmp_path / "001", tmp_path / "002"]
    assert mine.path == tmp_path / "002"
    assert SpoolFolder.adopt(tmp_path / "001", Limits()) is None
    other.kill()
    other.wait()
    left = SpoolFolder.adopt(tmp_path / "001", Limits())
    assert left is not None
    left.recover(lambda _: None)
    assert drained(left) == [b"of the other"]
