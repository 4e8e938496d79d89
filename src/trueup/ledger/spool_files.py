"""The files of one spool: segments that only grow, how far they are drained, and what was set aside.

``<data_dir>/spool/<number>/`` belongs to one process at a time, which holds an exclusive lock on its
file ``lock``; the kernel lets go of it when the process dies, however it dies. In it are

* ``<number>.segment``: records, see ``spool_frames.py``; a new file after ``SEGMENT_BYTES`` and after every start
* ``position``: segment and offset up to which everything is in the ledger. It is written after the ledger's commit
  and never forced to disk: one that is too old has records booked again, which changes nothing
* ``dead-letters``: what the ledger will never take, and answers that differ from the ledger's, with the reason
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trueup.domain.contract import Contract
from trueup.errors import LedgerUnavailable, Overloaded, TrueupError
from trueup.ledger.spool_frames import HEAD_BYTES, Damage, Frame, Kind, framed, scan, written_at
from trueup.ledger.spool_records import contract_bytes, contract_of, dead_bytes
from trueup.settings import Limits
from trueup.telemetry import log

SEGMENT_BYTES = 16 * 2**20
FOLDERS = 1_000  # more processes than ever share one data directory
_READ_BYTES = 2**20
_REST_S = 1.0  # after a failed write nothing is tried for so long
_POSITION = struct.Struct("<QQI")


@dataclass(slots=True, eq=False)
class Segment:
    """One file: ``size`` bytes are written, ``synced`` of them are on disk; the rest is nobody's answer yet."""

    number: int
    path: Path
    fd: int
    size: int = 0
    synced: int = 0
    rows: int = 0
    rows_synced: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A record that ``sync`` will force to disk."""

    segment: Segment
    end: int


class SpoolFolder:
    """One folder, locked for as long as it is open. Safe to use from several threads."""

    def __init__(self, path: Path, lock: int, limits: Limits) -> None:
        self.path = path
        self._lock_file = lock
        self._limits = limits
        self._writing = threading.RLock()
        self._syncing = threading.Lock()
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None
        self._known: set[int] = set()  # contracts in the active segment
        self._position_file = os.open(path / "position", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._drained = 0  # offset in the first segment
        self._resting_until = 0.0
        self.contracts: dict[int, Contract] = {}  # by id, of every segment that was read or written
        self.bytes = 0
        self.rows = 0
        self.dead_bytes = 0
        self.dead = 0
        self.failures = 0  # writes or syncs that the disk refused

    @classmethod
    def open(cls, root: Path, limits: Limits) -> SpoolFolder:
        """The first folder that no living process holds; a new one where all are held."""
        for number in range(1, FOLDERS + 1):
            found = cls.adopt(_made(root / f"{number:03d}"), limits)
            if found is not None:
                return found
        raise LedgerUnavailable("every spool folder is in use", next_step="look for processes that hang")

    @classmethod
    def adopt(cls, path: Path, limits: Limits) -> SpoolFolder | None:
        """The folder, or None where a living process holds it."""
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return cls(path, lock, limits)

    def recover(self, remember: Callable[[Frame], None]) -> None:
        """Reads what an earlier process left and hands every undrained record on; cuts off a torn end."""
        number, offset = read_position(self.path)
        for path in sorted(self.path.glob("*.segment")):
            if int(path.stem) < number:
                path.unlink()
                continue
            segment = Segment(int(path.stem), path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            segment.size = segment.synced = os.fstat(segment.fd).st_size
            self._segments.append(segment)
            self._recover_segment(segment, offset if segment.number == number else 0, remember)
        if self._segments and self._segments[0].number == number:
            self._drained = min(offset, self._segments[0].size)
            self.bytes -= self._drained
        self._recover_dead()
        self._drop_drained()

    def append(self, kind: Kind, rows: int, payload: bytes, contract: tuple[int, Contract] | None = None) -> Written:
        """Writes one record, with its contract where the segment has not got it; durable after ``sync``.

        Raises Overloaded when the bound is reached, LedgerUnavailable when the disk refuses.
        """
        frame = framed(kind, rows, payload)
        with self._writing:
            self._check_room(len(frame), rows)
            segment = self._writable()
            if contract is not None and contract[0] not in self._known:
                frame = framed(Kind.CONTRACT, 0, contract_bytes(*contract)) + frame
            self._write(segment, frame)
            if contract is not None and contract[0] not in self._known:
                self._known.add(contract[0])
                self.contracts[contract[0]] = contract[1]
            segment.rows += rows
            self.rows += rows
            self.bytes += len(frame)
            return Written(segment, segment.size)

    def sync(self, written: Written) -> None:
        """Returns once the record is on disk; one fsync serves everything written until then.

        A failed fsync is never repeated: the kernel may have dropped what it could not write and then report
        success. The file is cut back to what is surely on disk and never written again. Raises LedgerUnavailable.
        """
        segment = written.segment
        if segment.synced >= written.end:
            return
        with self._syncing:
            if segment.synced >= written.end:
                return
            if segment.failed:
                raise _refused()
            size, rows = segment.size, segment.rows
            try:
                os.fdatasync(segment.fd)
            except OSError as error:
                self._abandon(segment, error)
                raise _refused() from None
            segment.synced, segment.rows_synced = size, rows

    def waiting(self) -> Iterator[tuple[Frame | Damage, Callable[[], None]]]:
        """The oldest records on disk, about a megabyte of them; the function beside each says that it is done."""
        segment, base, items = self._oldest()
        for item in items:
            rows = item.rows if isinstance(item, Frame) else 0

            def done(end: int = base + item.end, rows: int = rows) -> None:
                assert segment is not None
                self._advance(segment, end, rows)

            yield item, done

    def set_aside(self, reason: str, kind: int, payload: bytes) -> None:
        """Keeps what the ledger does not take, on disk when this returns. Raises LedgerUnavailable."""
        frame = framed(Kind.DEAD, 1, dead_bytes(reason, kind, payload))
        try:
            fd = os.open(self.path / "dead-letters", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, frame)
                os.fsync(fd)
            finally:
                os.close(fd)
            _sync_folder(self.path)
        except OSError as error:
            self._failed(error)
            raise _refused() from None
        self.dead += 1
        self.dead_bytes += len(frame)

    @property
    def is_empty(self) -> bool:
        """Whether everything is drained."""
        return self.bytes <= 0

    @property
    def has_room(self) -> bool:
        """Whether a small record would be taken now."""
        return (
            time.monotonic() >= self._resting_until
            and self.bytes + self.dead_bytes < self._limits.spool_bytes
            and self.rows < self._limits.spool_rows
        )

    def oldest_us(self) -> int | None:
        """When the oldest undrained record was written, in microseconds since 1970."""
        with self._writing:
            if self.is_empty or not self._segments:
                return None
            try:
                return written_at(os.pread(self._segments[0].fd, HEAD_BYTES, self._drained))
            except OSError:
                return None

    def close(self) -> None:
        """Lets go of the folder; what is undrained stays in it."""
        with self._writing:
            for segment in self._segments:
                os.close(segment.fd)
            self._segments.clear()
            os.close(self._position_file)
            os.close(self._lock_file)

    def _check_room(self, size: int, rows: int) -> None:
        if time.monotonic() < self._resting_until:
            raise _refused()
        limits = self._limits
        if self.bytes + self.dead_bytes + size > limits.spool_bytes or self.rows + rows > limits.spool_rows:
            raise Overloaded("the spool is full", next_step="try again when the ledger's database is back")

    def _writable(self) -> Segment:
        if self._active is not None and self._active.size < SEGMENT_BYTES and not self._active.failed:
            return self._active
        number = self._segments[-1].number + 1 if self._segments else read_position(self.path)[0] + 1
        path = self.path / f"{number:012d}.segment"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _sync_folder(self.path)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            self._failed(error)
            raise _refused() from None
        self._active = Segment(number, path, fd)
        self._segments.append(self._active)
        self._known.clear()
        return self._active

    def _write(self, segment: Segment, frame: bytes) -> None:
        try:
            _write_all(segment.fd, frame)
        except OSError as error:
            self._active = None
            with suppress(OSError):  # what it holds beyond its size would be taken for a torn end
                os.ftruncate(segment.fd, segment.size)
            self._failed(error)
            raise _refused() from None
        segment.size += len(frame)

    def _abandon(self, segment: Segment, error: OSError) -> None:
        with self._writing:
            segment.failed = True
            if self._active is segment:
                self._active = None
            self.rows -= segment.rows - segment.rows_synced
            self.bytes -= segment.size - segment.synced
            segment.size, segment.rows = segment.synced, segment.rows_synced
            with suppress(OSError):
                os.ftruncate(segment.fd, segment.synced)
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        self._resting_until = time.monotonic() + _REST_S
        with suppress(OSError):  # the log may lie on the same full disk
            log("spool").error("spool_not_written", errno=error.errno, failures=self.failures)

    def _oldest(self) -> tuple[Segment | None, int, Sequence[Frame | Damage]]:
        with self._writing:
            self._drop_drained()
            if not self._segments:
                return None, 0, ()
            segment, base = self._segments[0], self._drained
            end = segment.synced
        for size in (_READ_BYTES, end - base):
            data = _read(segment.fd, base, min(size, end - base))
            items = list(scan(data))
            if base + len(data) < end and items and isinstance(items[-1], Damage):
                items.pop()  # cut by the reading
            if items:
                return segment, base, items
        return segment, base, ()

    def _advance(self, segment: Segment, end: int, rows: int) -> None:
        with self._writing:
            self.bytes -= end - self._drained
            self.rows -= rows
            self._drained = end
            raw = _POSITION.pack(segment.number, end, zlib.crc32(struct.pack("<QQ", segment.number, end)))
            os.pwrite(self._position_file, raw, 0)
            self._drop_drained()

    def _drop_drained(self) -> None:
        """Removes files that hold nothing undrained, except the one that is being written."""
        while self._segments and self._segments[0] is not self._active:
            segment = self._segments[0]
            if self._drained < segment.size:
                return
            self._segments.popleft()
            self._drained = 0
            os.close(segment.fd)
            with suppress(OSError):
                segment.path.unlink()

    def _recover_segment(self, segment: Segment, begin: int, remember: Callable[[Frame], None]) -> None:
        end = segment.size
        for item in scan(_read(segment.fd, 0, segment.size)):
            if isinstance(item, Damage):
                if item.torn:
                    end = item.start
                continue
            if item.kind is Kind.CONTRACT:
                with suppress(TrueupError, ValueError):  # of another version of trueup; its bookings are set aside
                    contract_id, contract = contract_of(item.payload)
                    self.contracts[contract_id] = contract
            elif item.start >= begin:
                self.rows += item.rows
                remember(item)
        if end < segment.size:
            log("spool").warning("torn_end_cut", bytes=segment.size - end)
            os.ftruncate(segment.fd, end)
            os.fsync(segment.fd)
            segment.size = segment.synced = end
        self.bytes += segment.size

    def _recover_dead(self) -> None:
        path = self.path / "dead-letters"
        if path.exists():
            data = path.read_bytes()
            self.dead = sum(isinstance(item, Frame) for item in scan(data))
            self.dead_bytes = len(data)


def folders(root: Path) -> list[Path]:
    """Every process's folder there is, living or dead."""
    return sorted(path.parent for path in root.glob("*/lock"))


def read_position(path: Path) -> tuple[int, int]:
    """Segment and offset up to which a folder is drained; (0, 0) where that is not known."""
    try:
        raw = (path / "position").read_bytes()[: _POSITION.size]
    except FileNotFoundError:
        return 0, 0
    if len(raw) < _POSITION.size:
        return 0, 0
    number, offset, check = _POSITION.unpack(raw)
    return (number, offset) if check == zlib.crc32(raw[:16]) else (0, 0)


def _refused() -> LedgerUnavailable:
    return LedgerUnavailable(
        "the spool cannot be written", next_step="try again with the same key; the server's log tells more"
    )


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read(fd: int, offset: int, size: int) -> bytes:
    """Exactly so many bytes, fewer only at the end of the file."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
