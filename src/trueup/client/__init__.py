"""A client for trueup's HTTP API, for any Python program: ``pip install 'trueup[client]'``.

>>> from trueup.client import Client
>>> with Client("https://trueup.bank.example", key="tu_...") as trueup:
...     answer = trueup.score("fails", {"cusip": "037833100", ...}, key="order-4711")

Attempts of one call carry the same idempotency key, so a retry is never a second prediction.
"""

from trueup.client.answers import (
    Answer,
    Answers,
    Artifact,
    Contract,
    ContractName,
    Deployment,
    FieldFault,
    Health,
    OutcomesReceipt,
    Prediction,
    PredictionSummary,
    Reason,
    RowAnswer,
    RowRefused,
    Version,
)
from trueup.client.asynchronous import AsyncClient
from trueup.client.blocking import Client
from trueup.client.calls import new_key
from trueup.client.errors import UnexpectedAnswer, Unreachable
from trueup.client.retrying import Retries

__all__ = [
    "Answer",
    "Answers",
    "Artifact",
    "AsyncClient",
    "Client",
    "Contract",
    "ContractName",
    "Deployment",
    "FieldFault",
    "Health",
    "OutcomesReceipt",
    "Prediction",
    "PredictionSummary",
    "Reason",
    "Retries",
    "RowAnswer",
    "RowRefused",
    "UnexpectedAnswer",
    "Unreachable",
    "Version",
    "new_key",
]
