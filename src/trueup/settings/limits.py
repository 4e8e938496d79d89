"""Every queue, loop, body and batch of serving is bounded here."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Limits(BaseModel):
    """Every queue, loop, body and batch is bounded here."""

    batch_rows: int = Field(20_000, ge=1, le=1_000_000, description="instances of one booking transaction")
    batches_ahead: int = Field(1, ge=1, le=64, description="batches of a file scored while the one before is booked")
    body_bytes: int = Field(32 * 2**20, ge=1024, description="bytes of one HTTP request body")
    bodies_bytes: int = Field(2**28, ge=1024, description="bytes of all inference bodies in memory; 503 beyond")
    request_rows: int = Field(10_000, ge=1, description="instances of one HTTP request")
    field_errors: int = Field(1_000, ge=1, description="field errors reported for one request; the rest is counted")
    text_chars: int = Field(10_000, ge=1, description="characters of one text field")
    key_chars: int = Field(200, ge=1, description="characters of a source or business key")
    listed_rows: int = Field(10_000, ge=1, description="rows of one listing or query through a door")
    statement_timeout_s: float = Field(30.0, gt=0, description="seconds a read may take")
    book_retries: int = Field(5, ge=1, description="attempts to book a batch that races with another writer")
    partitions_ahead_days: int = Field(7, ge=0, description="event days whose partitions are made ahead")
    event_past_days: int = Field(36_525, ge=1, description="how far back an event may lie")
    event_future_days: int = Field(366, ge=0, description="how far ahead an event may lie")
    gathered_rows: int = Field(1_024, ge=1, description="instances of one batch of online requests")
    on_loop_ms: float = Field(2.0, ge=0, description="longest batch scored on the event loop, else in a thread")
    queued_rows: int = Field(20_000, ge=1, description="instances that wait for one deployment; 503 beyond")
    queued_refusals: int = Field(20_000, ge=1, description="refused requests that wait to be booked; older are lost")
    commits_in_flight: int = Field(2, ge=1, le=16, description="batches of one deployment being booked at once")
    requests_in_flight: int = Field(64, ge=1, description="HTTP requests being read or answered; 503 beyond")
    inferences_in_flight: int = Field(1_024, ge=1, description="inference requests being answered; 503 beyond")
    connections: int = Field(1_000, ge=1, description="open connections of the HTTP door; more are closed with 503")
    header_bytes: int = Field(32 * 2**10, ge=1_024, description="bytes of one HTTP request's first line and headers")
    headers: int = Field(100, ge=10, description="headers of one HTTP request")
    header_read_s: float = Field(10.0, gt=0, description="seconds in which the headers of an HTTP request arrive")
    pipelined_requests: int = Field(32, ge=1, description="requests that wait behind another on one connection")
    grpc_calls: int = Field(1_024, ge=1, description="open gRPC calls, a stream is one; RESOURCE_EXHAUSTED beyond")
    stream_requests_in_flight: int = Field(
        32, ge=1, description="requests of one gRPC stream being answered; the next is read after"
    )
    metric_deployments: int = Field(64, ge=1, le=1_000, description="deployments with metrics of their own")
    worker_restarts: int = Field(10, ge=0, description="restarts in a row of a worker that ends within a minute")
    loads_at_once: int = Field(2, ge=1, le=16, description="deployments loaded at once beside those that answer")
    load_retry_s: float = Field(
        60.0, gt=0, description="longest wait before a model that failed to load is tried again"
    )
    pool_connections: int = Field(8, ge=1, le=100, description="connections of one process per role")
    database_connect_s: float = Field(2.0, ge=1, le=60, description="seconds a connection may take to be made")
    database_probe_s: float = Field(0.25, gt=0, description="seconds between looks whether an absent database is back")
    spool_bytes: int = Field(2**30, ge=4096, description="bytes of one process's spool with its dead letters")
    spool_rows: int = Field(1_000_000, ge=1, description="undrained instances and refusals of one process's spool")
    spool_remembered: int = Field(100_000, ge=0, description="keyed answers remembered after they are drained")
    spool_lookup_s: float = Field(0.25, gt=0, description="seconds the ledger is asked for a key's first answer")
    gauges_every_s: float = Field(30.0, ge=1, description="seconds between two reports of a process into the ledger")
    gauges_kept_days: int = Field(30, ge=1, description="days for which such reports are kept")
