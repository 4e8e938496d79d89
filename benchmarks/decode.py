"""Decoding 30 float features from JSON, beside what the fastest parsers need for the same bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import orjson
from rounds import medians

import trueup
from trueup.contracts.decoding import Decoder
from trueup.settings import Limits

FIELDS = "".join(f"  f{i}: float64\n" for i in range(30))
CONTRACT = trueup.load_contract(f"name: bench\nversion: 1\nfields:\n{FIELDS}output: {{kind: probability}}\n")


def main() -> None:
    decoder = Decoder(CONTRACT, Limits())
    values = np.random.default_rng(0).normal(size=(1000, 30)).round(6)
    rows = [{f"f{i}": float(v) for i, v in enumerate(row)} for row in values]
    print("| rows | ours | orjson parse | msgspec parse | ours / fastest parse |\n|---|---|---|---|---|")
    for n, calls in ((1, 2000), (1000, 5)):
        body = orjson.dumps(rows[:n])
        found = medians(
            {
                "ours": lambda body=body: decoder.json(body),
                "orjson": lambda body=body: orjson.loads(body),
                "msgspec": lambda body=body: msgspec.json.decode(body),
            },
            calls=calls,
        )
        fastest = min(found["orjson"], found["msgspec"])
        shown = " | ".join(f"{found[k] * 1e6:,.1f} us" for k in ("ours", "orjson", "msgspec"))
        print(f"| {n:,} | {shown} | {found['ours'] / fastest:.2f} |")


if __name__ == "__main__":
    main()
