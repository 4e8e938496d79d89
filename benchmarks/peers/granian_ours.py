"""Our door, durable, under granian instead of uvicorn: ``granian_ours.py PORT MODEL_PATH KEY_FILE``.

Run by our own interpreter, with granian from ``.venv-granian`` behind its own packages. The worker makes
everything, and writes the key of a scorer to KEY_FILE when it can answer.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]
sys.path += [str(path) for path in Path(f"{sys.prefix}-granian").glob("lib/*/site-packages")]


def made() -> Any:
    """The application, over services of this process."""
    import trueup
    from serving import CONTRACT
    from trueup.doors.api.server import calm_collector, create_app
    from trueup.doors.auth import ApiRole, MemoryApiKeys
    from trueup.doors.inference.server import Front

    _, model_path, key_file = sys.argv[1:]
    up = trueup.connect(trueup.Settings(data_dir=Path(tempfile.mkdtemp())))
    atexit.register(up.close)
    serving = trueup.Serving(replay_grade=trueup.ReplayGrade.TOLERANCE, tolerance=1e-6, reason_codes=0)
    up.deploy("m", contract=CONTRACT, model=model_path, version="1", serving=serving)
    keys = MemoryApiKeys()
    app = create_app(up.services, keys)
    calm_collector()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        for thread in os.listdir("/proc/self/task"):  # its PostgreSQL keeps both cores
            os.sched_setaffinity(int(thread), {0})
    partial = Path(f"{key_file}.partial")
    partial.write_text(keys.create("bench", ApiRole.SCORER, by="bench")[1])
    partial.rename(key_file)
    return Front(app, up.services, keys, lambda: False)


if __name__ == "__main__":
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    Granian(
        "made",
        port=int(sys.argv[1]),
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        websockets=False,
        log_enabled=False,
    ).serve(target_loader=made, wrap_loader=False)
