"""The whole log output of a server at level debug holds none of what its callers send."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

SECRET = "Planted4711"
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_no_value_key_or_query_is_logged(tmp_path: Path, as_json: bool):
    environment = {
        **os.environ,
        "TRUEUP_DATA_DIR": str(tmp_path / "data"),
        "TRUEUP_LOG_LEVEL": "debug",
        "TRUEUP_LOG_JSON": str(as_json),
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])]),
    }
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    script = [sys.executable, "-m", "trueup"]
    for name, version, model in (("t", "1", "share_of_a_million"), ("broken", "2", "broken")):
        deploy = [*script, "deploy", name, "--version", version, "--model", f"python:small_models:{model}"]
        done = subprocess.run(
            [*deploy, "--contract", "contract.yaml"], cwd=tmp_path, env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr
    errors = tmp_path / "stderr"
    with errors.open("wb") as written:
        process = subprocess.Popen(
            [*script, "up", "--port", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=written
        )
        assert process.stdout
        key = process.stdout.readline().decode().strip()
        while not (found := re.search(r"listens on (\S+)\s", errors.read_text())):
            assert process.poll() is None
        statuses = send_secrets(found[1], key)
        process.terminate()
        process.communicate(timeout=60)
    assert statuses >= {200, 400, 401, 404, 409, 422, 500}
    log = errors.read_text()
    assert SECRET.lower() not in log.lower()
    assert key.rpartition("_")[2] not in log
    assert log.count("desk-7") >= 6  # a plain request id is what a log is searched by
    if as_json:
        events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        requests = [event for event in events if event["event"] == "request"]
        assert {event["deployment"] for event in requests} == {"", "t", "broken"}
        assert {event["door"] for event in requests} == {"rest", "records", "api"}
        assert {event["status"] for event in requests} == statuses


def send_secrets(url: str, key: str) -> set[int]:
    """Secrets in every place a caller can write to, through answers of every kind; the statuses."""
    plain = {"Authorization": f"Bearer {key}", "X-Request-Id": "desk-7"}
    sly = {**plain, "X-Request-Id": f"<{SECRET}>", "X-Other": SECRET, "traceparent": SECRET, "Cookie": f"a={SECRET}"}
    wrong = {"Authorization": f"Bearer tu_{SECRET}", "X-API-Key": SECRET}
    account = {"name": "account", "shape": [1], "datatype": "BYTES", "data": [SECRET]}
    amount = {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]}
    good = {"id": SECRET, "inputs": [account, amount], "parameters": {SECRET: SECRET}}
    row = {"account": SECRET, "amount": 1.0}
    posted = [
        (f"/v2/models/t/infer?x={SECRET}", {**sly, "Idempotency-Key": SECRET}, good),
        (
            "/v2/models/t/infer",
            {**plain, "Idempotency-Key": SECRET},
            {**good, "inputs": [account, {**amount, "data": [2.0]}]},
        ),
        ("/v2/models/t/infer", plain, {**good, "inputs": [account, {**amount, "data": [-1.0]}]}),
        ("/v2/models/t/infer", plain, {**good, "inputs": [{**account, "name": SECRET}]}),
        ("/v2/models/t/infer", wrong, good),
        (f"/v2/models/{SECRET}/infer", plain, good),
        (f"/v2/repository/models/{SECRET}/load", plain, {}),
        ("/v2/models/broken/infer", plain, good),
        (f"/v1/deployments/t/score?x={SECRET}", sly, {"instance": row, "key": SECRET}),
        ("/v1/deployments/t/score", plain, {"instance": {**row, "amount": 2.0}, "key": SECRET}),
        ("/v1/deployments/t/score", plain, {"instance": {**row, "amount": SECRET}}),
        ("/v1/deployments/broken/score", plain, {"instance": row}),
        (f"/v1/deployments/{SECRET}/score", plain, {"instance": row}),
        ("/v1/outcomes", plain, {"contract": SECRET, "source": SECRET, "outcomes": [{SECRET: SECRET}]}),
        ("/v1/deployments", plain, {"name": SECRET, "version": SECRET, "contract": SECRET, "artifacts": []}),
    ]
    statuses = set()
    with httpx2.Client(base_url=url, timeout=60) as http:
        for path, headers, body in posted:
            statuses.add(http.post(path, headers=headers, json=body).status_code)
        for path in (f"/v1/predictions?business_key={SECRET}", f"/v1/predictions?limit={SECRET}", f"/{SECRET}"):
            statuses.add(http.get(path, headers=plain).status_code)
        statuses.add(http.request(SECRET, "/v2/models/t/infer", headers=plain).status_code)
        statuses.add(http.post("/v2/models/t/infer", headers=plain, content=SECRET.encode()).status_code)
    return statuses
