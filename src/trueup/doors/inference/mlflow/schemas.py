"""MLflow's documents, as msgspec reads and writes them. Values stay the bytes that were sent until the
contract's decoder sees them."""

from __future__ import annotations

from typing import Any

import msgspec

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
LANGUAGE_MODEL = ("messages", "prompt", "input")
PARAMETERS = ("idempotency_key", "event_time", "reasons", "timeout", "details")

Maybe = msgspec.Raw | msgspec.UnsetType


class Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A JSON body: exactly one of the four forms, or (refused) a language model's members."""

    dataframe_split: Maybe = msgspec.UNSET
    dataframe_records: Maybe = msgspec.UNSET
    instances: Maybe = msgspec.UNSET
    inputs: Maybe = msgspec.UNSET
    params: dict[str, Any] | None = None
    messages: Maybe = msgspec.UNSET
    prompt: Maybe = msgspec.UNSET
    input: Maybe = msgspec.UNSET


class Split(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """pandas' ``split`` orientation. Without ``columns`` they are the contract's fields, in its order."""

    data: list[list[msgspec.Raw]]
    columns: list[str] | None = None
    index: list[msgspec.Raw] | None = None
