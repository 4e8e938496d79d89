"""Loading a version: digest first, policy second, bytes last."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from trueup.domain.deployment import Artifact, ModelVersion, Runtime, Serving
from trueup.errors import ModelRefused
from trueup.ports import Scorer
from trueup.registry.artifacts import ArtifactFolder, digest_of

LoadRuntime = Callable[[Runtime, str, Serving], Scorer]
_LIBRARY = {
    Runtime.XGBOOST: ("xgboost-cpu", "xgboost"),
    Runtime.LIGHTGBM: ("lightgbm",),
    Runtime.SKLEARN: ("scikit-learn",),
    Runtime.PICKLE: ("scikit-learn",),
}


class Loader:
    """Turns a version's artifacts into scorers, in the order in which it lists them."""

    def __init__(self, artifacts: ArtifactFolder, load_runtime: LoadRuntime) -> None:
        self._artifacts = artifacts
        self._load_runtime = load_runtime

    def load_all(self, version: ModelVersion, serving: Serving) -> list[Scorer]:
        """Every runtime of the version. Raises ModelRefused, MissingExtra."""
        refuse_other_libraries(version)
        return [self._load(artifact, serving) for artifact in version.artifacts]

    def _load(self, artifact: Artifact, serving: Serving) -> Scorer:
        where = self._artifacts.path(artifact)
        if artifact.runtime is not Runtime.PYTHON and (
            not Path(where).exists() or digest_of(Path(where)) != artifact.digest
        ):
            raise ModelRefused(
                "the model file is missing or was changed since it was deployed", next_step="deploy the version again"
            )
        if artifact.runtime is Runtime.PICKLE and artifact.digest not in serving.allowed_pickles:
            raise ModelRefused(
                f"a pickle runs code when loaded, and this deployment does not allow {artifact.digest[:12]}",
                next_step="export to ONNX or skops, or name the digest in `allowed_pickles`",
            )
        return self._load_runtime(artifact.runtime, where, serving)


def refuse_other_libraries(version: ModelVersion) -> None:
    """A model trained with another minor version of its library may score differently.

    Raises ModelRefused naming both versions.
    """
    trained = dict(version.libraries)
    for runtime in {a.runtime for a in version.artifacts}:
        for name in _LIBRARY.get(runtime, ()):
            then, now = trained.get(name), _installed(name)
            if then and now and then.split(".")[:2] != now.split(".")[:2]:
                raise ModelRefused(
                    f"the model was trained with {name} {then}, here is {now}",
                    next_step="install the version it was trained with, or train again",
                )


def _installed(name: str) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:
        return None
