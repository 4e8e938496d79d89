"""Our door, durable, under granian instead of uvicorn: ``granian_ours.py PORT MODEL_PATH KEY_FILE``.

Run by our own interpreter, with granian from ``.venv-granian`` behind its own packages. The process holds the
PostgreSQL; granian's worker writes the key of a scorer to KEY_FILE when it can answer.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]
sys.path += [str(path) for path in Path(f"{sys.prefix}-granian").glob("lib/*/site-packages")]


def deployed(folder: Path, model_path: str) -> Any:
    """trueup with the model deployed; whoever calls closes it, and with it the PostgreSQL."""
    import trueup
    from serving import CONTRACT

    up = trueup.connect(trueup.Settings(data_dir=folder))
    serving = trueup.Serving(replay_grade=trueup.ReplayGrade.TOLERANCE, tolerance=1e-6, reason_codes=0)
    up.deploy("m", contract=CONTRACT, model=model_path, version="1", serving=serving)
    return up


def made(folder: Path, key_file: Path) -> Any:
    """The application, over services of the worker's own process."""
    import trueup
    from trueup.doors.api.server import calm_collector, create_app
    from trueup.doors.auth import ApiRole, MemoryApiKeys
    from trueup.doors.inference.server import Front

    up = trueup.connect(trueup.Settings(data_dir=folder))
    keys = MemoryApiKeys()
    app = create_app(up.services, keys)
    calm_collector()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {0})
    half_written = key_file.with_suffix(".half")
    half_written.write_text(keys.create("bench", ApiRole.SCORER, by="bench")[1])
    half_written.rename(key_file)
    return Front(app, up.services, keys, lambda: False)


def main(port: int, model_path: str, key_file: Path) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder), model_path):
        Granian(
            "made",
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            loop=Loops.uvloop,
            websockets=False,
            log_enabled=False,
        ).serve(target_loader=partial(made, Path(folder), key_file), wrap_loader=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
