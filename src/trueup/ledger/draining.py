"""From the spool into the ledger: steps 7 to 9 of ``spool.py``, in a thread of the process that spools.

The database away: wait and try again, longer each time, for ever. A record that the ledger will never take is set
aside after a few attempts, so that it does not hold up the others. What a stop leaves undrained is drained by the
next process on this data directory; so is the spool of a process that died, as soon as another one looks.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from trueup.domain.batch import REQUEST_SOURCE, Booked, Booking, Receipt, Refusal, RefusalReason, Refusals
from trueup.errors import InvalidInput, InvalidQuery, TrueupError, Unavailable
from trueup.ledger.postgres import First, at_times
from trueup.ledger.spool import SpooledLedger, first_moment
from trueup.ledger.spool_files import SpoolFolder, folders
from trueup.ledger.spool_frames import Damage, Frame, Kind
from trueup.ledger.spool_index import firsts_of
from trueup.ledger.spool_joining import Record, Run, joined
from trueup.ledger.spool_records import booking_of, claims_of, refusals_of
from trueup.telemetry import log

ATTEMPTS = 3
PAUSE_S = (0.1, 5.0)  # between attempts while the ledger is away: the first, and the longest
STOP_S = 10.0  # a database that hangs does not keep a process from ending
LOOK_S = 5.0  # between looks for spools whose process died
OTHERWISE = "answered from a spool; the ledger's first answer is another one"
OTHER_CONTENT = "answered from a spool; the identity holds other content"
# What a record itself can be the cause of. Everything else (rights, space, a missing table) is the database's.
_POISON = (InvalidQuery, InvalidInput, psycopg.DataError, psycopg.IntegrityError, ValueError, KeyError, TypeError)


class Drainer:
    """Books what a spool holds, oldest first, and adopts the spools of dead processes."""

    def __init__(self, spool: SpooledLedger) -> None:
        self._spool = spool
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._draining = threading.Lock()
        self._looked_at = float("-inf")
        self._pause = 0.0
        self._attempts = 0

    def start(self) -> None:
        """Begins to drain in a thread."""
        self._thread = threading.Thread(target=self._run, name="trueup-drainer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the record that is being booked; the others stay on disk."""
        self._stopping.set()
        self._spool.arrived.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def drain(self) -> int:
        """Books everything that is on disk now and returns the number of records. Raises Unavailable."""
        with self._draining:
            self._adopt()
            done = 0
            for folder in (self._spool.folder, *self._spool.adopted):
                while (more := self._some(folder)) > 0:
                    done += more
            self._release()
            return done

    def drain_patiently(self) -> None:
        """As ``drain``, and what the ledger will never take is set aside after its attempts. Raises Unavailable."""
        while True:
            try:
                self.drain()
                return
            except _POISON:
                time.sleep(PAUSE_S[0])

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._spool.arrived.clear()
            try:
                self.drain()
                self._pause = 0.0
                self._spool.counts.ledger_away = False
                self._spool.arrived.wait(LOOK_S)
            except Exception as error:  # whatever it is, what is spooled must be tried again
                self._back_off(error)

    def _back_off(self, error: Exception) -> None:
        away = isinstance(error, Unavailable)
        if not away or not self._spool.counts.ledger_away:
            log("spool").warning("not_drained", kind=type(error).__name__, rows=self._spool.folder.rows)
        self._spool.counts.ledger_away = away
        self._pause = min(max(self._pause * 2, PAUSE_S[0]), PAUSE_S[1])
        self._stopping.wait(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret

    def _some(self, folder: SpoolFolder) -> int:
        """About a megabyte of records; how many. Small bookings that follow one another are one commit."""
        done, run = 0, Run()
        for item, finished in folder.waiting():
            if self._stopping.is_set():
                return 0
            one = None if isinstance(item, Damage) else _decoded(folder, item, finished)
            if one is not None and run.takes(one):
                continue
            done += self._run_of(folder, run)
            run = Run()
            if one is not None:
                run.takes(one)
                continue
            if isinstance(item, Damage):
                self._damaged(folder, item)
            else:
                self._one(folder, item)
            finished()  # 9
            done += 1
        return done + self._run_of(folder, run)

    def _run_of(self, folder: SpoolFolder, run: Run) -> int:
        """Books a run together; where the ledger refuses it, each by itself, so that one spoils none."""
        if len(run.records) > 1:
            try:
                self._book(folder, run.records)
            except _POISON:
                pass
            else:
                for record in run.records:
                    record.finished()  # 9
                return len(run.records)
        for record in run.records:
            self._one(folder, record.frame)
            record.finished()  # 9
        return len(run.records)

    def _one(self, folder: SpoolFolder, frame: Frame) -> None:
        """Steps 7 and 8 of one record."""
        try:
            self._taken(folder, frame)
        except _POISON as error:
            self._attempts += 1
            if self._attempts < ATTEMPTS:
                raise
            log("spool").error("set_aside", kind=type(error).__name__, record=frame.kind.name.lower(), rows=frame.rows)
            folder.set_aside(f"the ledger refused it: {_why(error)}", frame.kind, frame.payload)
            self._spool.counts.set_aside += 1
        self._attempts = 0

    def _taken(self, folder: SpoolFolder, frame: Frame) -> None:
        ledger = self._spool.ledger
        if frame.kind in (Kind.BOOKING, Kind.UNREPEATABLE):
            self._book(folder, [Record(frame, booking_of(frame.payload, folder.contracts))])
        elif frame.kind is Kind.REFUSALS:
            ledger.refuse(refusals_of(frame.payload))
        elif frame.kind is Kind.CLAIMS:
            claims = claims_of(frame.payload)
            ledger.claim_event_times(claims.deployment_id, claims.source, claims.moments)
            self._spool.settled(claims)

    def _book(self, folder: SpoolFolder, records: Sequence[Record]) -> None:
        booking = joined([record.booking for record in records])
        ledger = self._spool.ledger
        if booking.claims and booking.source.name != REQUEST_SOURCE:  # one moment for the whole source
            when = ledger.claim_event_times(booking.deployment_id, booking.source, booking.event_time)
            booking = at_times(booking, when)
        receipt = ledger.book(booking)  # 7
        otherwise, firsts = compared(booking, receipt)  # 8
        if otherwise:
            happened, received = first_moment(booking.event_time), first_moment(booking.received_at)
            told = list(otherwise.values())
            ledger.refuse(Refusals(booking.deployment_id, booking.source, happened, received, told))
            self._keep(folder, records, set(otherwise))
            self._spool.counts.conflicts += len(otherwise)
            log("spool").error("answered_otherwise", deployment_id=booking.deployment_id, rows=len(otherwise))
        self._spool.drained(booking, firsts)

    def _keep(self, folder: SpoolFolder, records: Sequence[Record], rows: set[int]) -> None:
        """Sets aside the records that hold any of the rows."""
        start = 0
        for record in records:
            end = start + len(record.booking)
            if not rows.isdisjoint(range(start, end)):
                folder.set_aside(OTHERWISE, record.frame.kind, record.frame.payload)
            start = end

    def _damaged(self, folder: SpoolFolder, damage: Damage) -> None:
        if damage.torn:  # nobody was answered for it
            return
        log("spool").error("damaged_record", bytes=damage.end - damage.start)
        folder.set_aside("its bytes were changed on disk", 0, damage.payload)
        self._spool.counts.set_aside += 1

    def _adopt(self) -> None:
        """Takes over the spools of processes that died."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        mine = {folder.path for folder in (self._spool.folder, *self._spool.adopted)}
        for path in folders(self._spool.root):
            if path in mine or not any(path.glob("*.segment")):
                continue
            folder = SpoolFolder.adopt(path, self._spool.limits)
            if folder is not None:
                self._spool.recover(folder)
                self._spool.adopted.append(folder)
                log("spool").warning("spool_adopted", rows=folder.rows)

    def _release(self) -> None:
        for folder in [f for f in self._spool.adopted if f.is_empty]:
            self._spool.adopted.remove(folder)
            folder.close()


def compared(booking: Booking, receipt: Receipt) -> tuple[dict[int, Refusal], list[First | None]]:
    """Step 8: a refusal for each row whose caller was told something else, and the ledger's first answers."""
    told, holds = firsts_of(booking.scored[0].answers), firsts_of(receipt.answers)
    otherwise: dict[int, Refusal] = {}
    firsts: list[First | None] = []
    for row, (mine, theirs) in enumerate(zip(told, holds, strict=True)):
        conflict = receipt.booked[row] == Booked.CONFLICT
        firsts.append(None if conflict else theirs)
        if conflict or repr(mine) != repr(theirs):  # two NaNs are one answer
            detail = OTHER_CONTENT if conflict else OTHERWISE
            otherwise[row] = Refusal(booking.source.keys[row], RefusalReason.CONFLICT, detail, booking.digests[row])
    return otherwise, firsts


def _decoded(folder: SpoolFolder, frame: Frame, finished: Callable[[], None]) -> Record | None:
    """The booking of a record; None where it holds none, or none that can be read."""
    if frame.kind not in (Kind.BOOKING, Kind.UNREPEATABLE):
        return None
    try:
        return Record(frame, booking_of(frame.payload, folder.contracts), finished)
    except _POISON:
        return None


def _why(error: Exception) -> str:
    """A class of errors, never a value: what was set aside says the rest."""
    return error.message if isinstance(error, TrueupError) else type(error).__name__
