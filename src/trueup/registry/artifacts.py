"""Model files by the digest of their content: what was approved is what is loaded."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from trueup.domain.deployment import Artifact, Runtime
from trueup.errors import InvalidFile, MissingExtra

_BY_SUFFIX = {
    ".onnx": Runtime.ONNX,
    ".ubj": Runtime.XGBOOST,
    ".json": Runtime.XGBOOST,
    ".txt": Runtime.LIGHTGBM,
    ".skops": Runtime.SKLEARN,
    ".pkl": Runtime.PICKLE,
    ".pickle": Runtime.PICKLE,
}
_KNOWN = ", ".join(_BY_SUFFIX)


class ArtifactFolder:
    """Keeps artifacts in one folder; ``uri`` of an artifact is its name in there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, model: Any) -> Artifact:
        """Copies a file or folder, or writes an in-memory model. Raises InvalidFile, MissingExtra."""
        if isinstance(model, str) and model.startswith("python:"):
            return Artifact(Runtime.PYTHON, model, hashlib.sha256(model.encode()).hexdigest())
        if isinstance(model, str) and model.startswith("models:/"):
            return self._kept(_downloaded(model), Runtime.PYFUNC)
        if isinstance(model, (str, Path)):
            return self._kept(Path(model), _runtime_of(Path(model)))
        with tempfile.TemporaryDirectory() as scratch:
            path, runtime = _written(model, Path(scratch))
            return self._kept(path, runtime)

    def path(self, artifact: Artifact) -> str:
        """Where the artifact lies; a Python function is its own address."""
        return artifact.uri if artifact.runtime is Runtime.PYTHON else str(self._folder / artifact.uri)

    def _kept(self, path: Path, runtime: Runtime) -> Artifact:
        digest = digest_of(path)
        name = f"{digest}{path.suffix}"
        target = self._folder / name
        if not target.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(dir=self._folder, prefix=".new-"))
            copied = fresh / name
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copied)
            copied.rename(target)
            fresh.rmdir()
        return Artifact(runtime, name, digest)


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file, or of the names and digests of a folder's files in order."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        listed = "".join(f"{p.relative_to(path).as_posix()}\0{digest_of(p)}\n" for p in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise InvalidFile(f"the model file {path.name} cannot be read", next_step="check its name") from None


def _runtime_of(path: Path) -> Runtime:
    if path.is_dir():
        if (path / "MLmodel").exists():
            return Runtime.PYFUNC
        raise InvalidFile("the folder is no MLflow model", next_step="name a folder that holds an MLmodel file")
    runtime = _BY_SUFFIX.get(path.suffix.lower())
    if runtime is None:
        raise InvalidFile(f"no runtime is known for the suffix {path.suffix!r}", next_step=f"use one of {_KNOWN}")
    return runtime


def _downloaded(uri: str) -> Path:
    try:
        import mlflow.artifacts
    except ImportError:
        raise MissingExtra("mlflow", "a model in an MLflow registry") from None
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except Exception:  # the store may raise anything
        raise InvalidFile("MLflow does not hand out the model", next_step="check MLFLOW_TRACKING_URI") from None


def _written(model: Any, folder: Path) -> tuple[Path, Runtime]:
    """Writes an in-memory model in its library's own safe format."""
    library = type(model).__module__.partition(".")[0]
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    if library == "xgboost":
        booster.save_model(folder / "model.ubj")
        return folder / "model.ubj", Runtime.XGBOOST
    if library == "lightgbm":
        booster = getattr(model, "booster_", model)
        booster.save_model(folder / "model.txt")
        return folder / "model.txt", Runtime.LIGHTGBM
    if library == "sklearn":
        try:
            import skops.io
        except ImportError:
            raise MissingExtra("sklearn", "saving a scikit-learn model") from None
        skops.io.dump(model, folder / "model.skops")
        return folder / "model.skops", Runtime.SKLEARN
    raise InvalidFile(
        "no runtime is known for this kind of model", next_step="save it to a file, or name it python:module:function"
    )
