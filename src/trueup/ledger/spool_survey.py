"""What lies in the spools of a data directory, seen from outside: without their locks, and without a database."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from trueup.ledger.spool_files import folders, read_position
from trueup.ledger.spool_frames import Frame, Kind, scan
from trueup.ledger.spool_records import dead_of


def survey(root: Path) -> list[dict[str, Any]]:
    """One document a spool: whether a process holds it; undrained rows, bytes and age; dead letters by reason."""
    return [_looked_at(path) for path in folders(root)]


def _looked_at(path: Path) -> dict[str, Any]:
    number, offset = read_position(path)
    rows = size = 0
    oldest: int | None = None
    for segment in sorted(path.glob("*.segment")):
        if int(segment.stem) < number:
            continue
        for frame in _frames(segment):
            if int(segment.stem) == number and frame.start < offset:
                continue
            size += frame.end - frame.start
            rows += frame.rows
            if frame.kind is not Kind.CONTRACT:
                oldest = frame.at_us if oldest is None else min(oldest, frame.at_us)
    dead = Counter(dead_of(frame.payload)[0] for frame in _frames(path / "dead-letters"))
    return {
        "spool": path.name,
        "held": _is_held(path),
        "rows": rows,
        "bytes": size if oldest is not None else 0,
        "oldest_age_s": 0.0 if oldest is None else max(0.0, time.time() - oldest / 1e6),
        "dead_letters": dead.total(),
        "reasons": dict(dead),
    }


def _frames(path: Path) -> list[Frame]:
    """The records of a file; none where it was drained and removed meanwhile."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [item for item in scan(data) if isinstance(item, Frame)]


def _is_held(path: Path) -> bool:
    """Whether a living process has it."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
