"""The wheel is complete: in an empty environment, without a checkout, `trueup demo` works."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import trueup
from trueup_examples.settlement_fails.market import Market, write_files

ROOT = Path(__file__).parents[2]


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_demonstration_runs_from_the_wheel_alone(tmp_path: Path):
    wheels = tmp_path / "wheels"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, ROOT)
    (wheel,) = wheels.glob("trueup-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    binaries = tmp_path / "env" / "bin"
    # Hashes cannot stand in constraints; the versions are the lock's.
    lock = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.rstrip(" \\") for line in lock if line and not line.startswith((" ", "#"))]
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    run(binaries / "pip", "install", "--quiet", "--constraint", tmp_path / "pins.txt", wheel)
    installed = run(binaries / "pip", "list", "--format", "freeze").lower()
    for heavy in ("xgboost", "pandas", "pyarrow", "mlflow", "onnxruntime", "scipy"):
        assert f"{heavy}==" not in installed

    files, home = tmp_path / "files", tmp_path / "home"
    write_files(Market(securities=150, months=3, seed=5), files)
    shown = run(binaries / "trueup", "demo", "--data", files, TRUEUP_DATA_DIR=str(home))
    assert "predictions booked" in shown
    again = run(binaries / "trueup", "demo", "--data", files, TRUEUP_DATA_DIR=str(home))
    assert "(0 new," in again
    listed = run(binaries / "trueup", "predictions", "--limit", "3", "--json", TRUEUP_DATA_DIR=str(home))
    assert listed.count("prediction_id") == 3
    assert run(binaries / "trueup", "version").strip().endswith("0.1.0")
    assert trueup.__doc__
