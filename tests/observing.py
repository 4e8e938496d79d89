"""A small contract, and requests for it through two doors."""

from __future__ import annotations

from typing import Any

from serving import Served
from trueup.doors.auth import ApiRole

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""


def oip(*amounts: float, **more: Any) -> dict[str, Any]:
    accounts, n = [f"00{i}" for i in range(len(amounts))], len(amounts)
    return {
        "inputs": [
            {"name": "account", "shape": [n], "datatype": "BYTES", "data": accounts},
            {"name": "amount", "shape": [n], "datatype": "FP64", "data": list(amounts)},
        ],
        **more,
    }


def records(door: Served, *amounts: Any, **more: Any) -> Any:
    rows = [{"account": f"00{i}", "amount": amount} for i, amount in enumerate(amounts)]
    url = f"http://{door.address}/v1/deployments/t/score"
    return door.http.post(url, headers=door.headers(ApiRole.SCORER), json={"instances": rows, **more})
