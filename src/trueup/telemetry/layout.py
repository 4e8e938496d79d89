"""Which metrics there are, and where each has its cells in one flat array of float64.

The array is all there is: recording adds to cells, a scrape reads them, and several workers'
arrays are summed cell by cell. Label values are fixed here, but for the deployment's: its axis
has a bounded number of places, of which 0 is for what names no deployment that was ever
resolved and 1 for the deployments beyond the bound.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import RefusalReason, Role

Cells = NDArray[np.float64]

UNRESOLVED, OTHER, FIRST = 0, 1, 2  # places on the deployments' axis
NAME_BYTES = 128

DOORS = ("rest", "grpc", "invocations", "records", "api", "health")
STEPS = ("parse", "validate", "queue", "model", "book")
BOOKED = ("new", "repeated")
# Code of the answer -> its class, in HTTP's words for every door.
OUTCOMES = {
    "ok": "2xx",
    **dict.fromkeys(
        (
            *("invalid_request", "body_too_slow", "body_too_large", "invalid_query", "invalid_file"),
            *("contract_invalid", "instance_invalid", "unauthenticated", "forbidden", "not_found"),
            *("method_not_allowed", "conflict", "model_refused", "parity", "rate_limited", "client_gone"),
            "http_error",
        ),
        "4xx",
    ),
    **dict.fromkeys(
        (
            *("scoring_failed", "overloaded", "timed_out", "ledger_unavailable", "unavailable", "missing_extra"),
            *("failed", "internal"),
        ),
        "5xx",
    ),
}

SECONDS = (5e-5, *(float(f"{digit}e{power}") for power in range(-4, 1) for digit in (1, 2, 5)), 10.0)
ROWS = tuple(float(2**power) for power in range(15))  # 1 to 16,384


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``axes`` are its labels and their values; ``bounds`` a histogram's buckets without +Inf.

    ``merge`` says how a gauge of several workers becomes one.
    """

    name: str
    kind: str  # counter, gauge or histogram
    help: str
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    per_deployment: bool = True
    bounds: tuple[float, ...] = ()
    merge: str = "sum"

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells by label, without the deployments' axis; a histogram has its sum behind its buckets."""
        own = tuple(len(values) for _, values in self.axes)
        return (*own, len(self.bounds) + 2) if self.kind == "histogram" else own


_DOOR, _ROLE = ("door", DOORS), ("role", tuple(str(role) for role in Role))

FAMILIES = (
    Family("trueup_requests", "counter", "Requests answered", (_DOOR, ("outcome", tuple(OUTCOMES)))),
    Family("trueup_request_seconds", "histogram", "From arrival to answer", (_DOOR,), bounds=SECONDS),
    Family("trueup_step_seconds", "histogram", "Steps of every booked instance", (("step", STEPS),), bounds=SECONDS),
    Family("trueup_batch_rows", "histogram", "Instances of one booking commit", bounds=ROWS),
    Family("trueup_instances_received", "counter", "Instances that reached the scoring path"),
    Family(
        "trueup_instances_answered",
        "counter",
        "Instances answered: booked now, or found booked",
        (("booked", BOOKED),),
    ),
    Family(
        "trueup_instances_refused",
        "counter",
        "Instances refused, each a row of refusals",
        (("reason", tuple(str(reason) for reason in RefusalReason)),),
    ),
    Family("trueup_instances_unbooked", "counter", "Instances that got an error and are not in the ledger"),
    Family("trueup_rows_booked", "counter", "Rows of predictions booked", (_ROLE,)),
    Family("trueup_model_failures", "counter", "Batches a model could not score", (_ROLE,)),
    Family("trueup_load_failures", "counter", "Times a revision's models could not be loaded"),
    Family("trueup_ledger_unavailable", "counter", "Calls that the ledger's database did not answer"),
    Family("trueup_queue_rows", "gauge", "Instances that wait for a batch"),
    Family("trueup_batches_in_flight", "gauge", "Batches being scored and booked"),
    Family("trueup_models_loaded", "gauge", "Model versions in memory"),
    Family("trueup_model_memory_bytes", "gauge", "Resident memory gained while the models were loaded"),
    Family("trueup_spool_rows", "gauge", "Answered instances that wait on local disk for the ledger"),
    Family("trueup_spool_bytes", "gauge", "Bytes that wait on local disk"),
    Family("trueup_spool_oldest_seconds", "gauge", "Age of the oldest instance that waits on disk", merge="max"),
    Family("trueup_spool_dead_letters", "gauge", "Records that the ledger will never take, kept on disk"),
    Family(
        "trueup_spool_conflicts", "gauge", "Instances answered from disk otherwise than the ledger, since the start"
    ),
    Family("trueup_stream_booked_seconds", "histogram", "From a record's append to its commit", bounds=SECONDS),
    Family("trueup_stream_dead_letters", "counter", "Records of a stream that got no answer"),
    Family("trueup_stream_rebalances", "counter", "Times partitions were given or taken"),
    Family("trueup_stream_restarts", "counter", "Times a stream looked anew where it stands, after a fault or a fence"),
    Family("trueup_stream_behind_records", "gauge", "Records that were appended and not taken yet"),
    Family("trueup_stream_owed_replies", "gauge", "Replies and dead letters not confirmed by the broker yet"),
    Family(
        "trueup_stream_unreconciled_instances", "gauge", "Instances of today without an end in the ledger", merge="max"
    ),
    Family("trueup_requests_in_flight", "gauge", "Requests being answered", (_DOOR,), per_deployment=False),
)
# Of each worker by itself; ``sampled`` tells the living from the dead.
PROCESS = ("started", "sampled", "resident_bytes")


@dataclass(frozen=True)
class Layout:
    """Where everything lies for ``deployments`` named deployments."""

    deployments: int

    @property
    def places(self) -> int:
        """Length of the deployments' axis."""
        return self.deployments + FIRST

    @cached_property
    def at(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """First cell and shape of each family, and of ``process``."""
        found: dict[str, tuple[int, tuple[int, ...]]] = {}
        start = 0
        for family in FAMILIES:
            shape = (self.places, *family.shape) if family.per_deployment else family.shape
            found[family.name] = (start, shape)
            start += prod(shape)
        found["process"] = (start, (len(PROCESS),))
        return found

    @property
    def size(self) -> int:
        """Cells in all."""
        start, shape = self.at["process"]
        return start + prod(shape)

    @property
    def digest(self) -> bytes:
        """32 bytes that differ where any cell would mean something else."""
        return hashlib.sha256(repr((FAMILIES, PROCESS, self.places, NAME_BYTES)).encode()).digest()


class State:
    """The cells of one process: ``flat`` float64 (layout.size,), ``names`` bytes (places,), views by family."""

    def __init__(self, layout: Layout, flat: Cells, names: NDArray[np.bytes_]) -> None:
        self.layout = layout
        self.flat = flat
        self.names = names
        self.views = {name: flat[at : at + prod(shape)].reshape(shape) for name, (at, shape) in layout.at.items()}

    @classmethod
    def in_memory(cls, layout: Layout) -> State:
        """Cells that nobody else sees, all zero."""
        return cls(layout, np.zeros(layout.size), np.zeros(layout.places, f"S{NAME_BYTES}"))

    def clear_gauges(self) -> None:
        """Forgets what was true of a process that has ended; counters go on."""
        for family in FAMILIES:
            if family.kind == "gauge":
                self.views[family.name][...] = 0
        self.views["process"][:] = 0
