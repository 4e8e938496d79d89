"""What every model runtime must do, asked of each on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Columns
from trueup.domain.deployment import Artifact, ModelVersion, ReplayGrade, Runtime, Serving
from trueup.errors import ModelRefused, ParityError, TrueupError
from trueup.registry.artifacts import ArtifactFolder
from trueup.registry.loader import Loader
from trueup.scoring import parity, scorers
from trueup.settings import Limits

CONTRACT = trueup.load_contract(
    "name: c\nversion: 1\nfields:\n" + "".join(f"  f{i}: float64\n" for i in range(6)) + "output: {kind: probability}\n"
)
RNG = np.random.default_rng(11)
X = RNG.normal(size=(3000, 6))
Y = X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + RNG.normal(0, 0.5, 3000) > 0


def columns(matrix: np.ndarray) -> Columns:
    return Decoder(CONTRACT, Limits()).columns({f"f{i}": matrix[:, i] for i in range(6)}).columns


def xgboost_model(folder: Path) -> Any:
    import xgboost

    return xgboost.train({"objective": "binary:logistic", "max_depth": 4}, xgboost.DMatrix(X, Y), 20)


def lightgbm_model(folder: Path) -> Any:
    import lightgbm

    quiet = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    return lightgbm.train(quiet, lightgbm.Dataset(X, Y), 20)


def sklearn_model(folder: Path) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, Y)


def onnx_model(folder: Path) -> Any:
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(20, max_depth=5, random_state=0).fit(X, Y)
    (folder / "m.onnx").write_bytes(
        to_onnx(forest, X[:1].astype(np.float32), options={"zipmap": False}).SerializeToString()
    )
    return folder / "m.onnx"


def pickle_model(folder: Path) -> Any:
    import pickle

    (folder / "m.pkl").write_bytes(pickle.dumps(sklearn_model(folder)))
    return folder / "m.pkl"


def python_model(folder: Path) -> Any:
    return "python:small_models:always_half"


def pyfunc_model(folder: Path) -> Any:
    import mlflow

    (folder / "model.py").write_text(
        "import mlflow\nclass M(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return 1 / (1 + (-model_input['f0']).map(__import__('math').exp))\n"
        "mlflow.models.set_model(M())\n"
    )
    mlflow.pyfunc.save_model(str(folder / "pyfunc"), python_model=str(folder / "model.py"))
    return folder / "pyfunc"


MODELS = {
    Runtime.XGBOOST: xgboost_model,
    Runtime.LIGHTGBM: lightgbm_model,
    Runtime.SKLEARN: sklearn_model,
    Runtime.ONNX: onnx_model,
    Runtime.PICKLE: pickle_model,
    Runtime.PYTHON: python_model,
    Runtime.PYFUNC: pyfunc_model,
}


@pytest.mark.parametrize("runtime", list(MODELS))
class TestEveryRuntime:
    @pytest.fixture
    def kept(self, runtime: Runtime, tmp_path: Path) -> tuple[ArtifactFolder, Artifact]:
        folder = ArtifactFolder(tmp_path / "models")
        return folder, folder.save(MODELS[runtime](tmp_path))

    def load(self, kept: tuple[ArtifactFolder, Artifact]) -> Any:
        folder, artifact = kept
        version = ModelVersion("c", "1", (artifact,), CONTRACT)
        return Loader(folder, scorers.load).load_all(version, Serving(allowed_pickles=(artifact.digest,)))[0]

    def test_the_runtime_is_recognised(self, runtime: Runtime, kept: tuple[ArtifactFolder, Artifact]):
        assert kept[1].runtime is runtime

    def test_one_instance_has_one_score_alone_and_in_a_batch(
        self, runtime: Runtime, kept: tuple[ArtifactFolder, Artifact]
    ):
        scorer = self.load(kept)
        together = scorer.score(columns(X[:300]))
        assert together.shape == (300, 1)
        assert together.dtype == np.float64
        assert ((together >= 0) & (together <= 1)).all()
        alone = np.concatenate([scorer.score(columns(X[i : i + 1])) for i in range(300)])
        # scikit-learn's linear algebra adds in another order for one row: see the test below.
        exact = runtime not in (Runtime.SKLEARN, Runtime.PICKLE)
        assert np.array_equal(alone, together) if exact else np.allclose(alone, together, rtol=0, atol=1e-12)

    def test_contributions_where_there_are_any_sum_to_the_margin(self, kept: tuple[ArtifactFolder, Artifact]):
        scorer = self.load(kept)
        found = scorer.contributions(columns(X[:50]))
        if found is None:
            return
        score = scorer.score(columns(X[:50]))[:, 0]
        margin = np.log(score / (1 - score))
        bias = margin - found.sum(axis=1)
        assert found.shape == (50, 6)
        assert np.allclose(bias, bias[0], atol=1e-4)

    def test_a_changed_file_is_refused(self, runtime: Runtime, kept: tuple[ArtifactFolder, Artifact]):
        folder, artifact = kept
        if runtime is Runtime.PYTHON:
            return
        path = Path(folder.path(artifact))
        changed = path / "MLmodel" if path.is_dir() else path
        changed.write_bytes(changed.read_bytes() + b" ")
        with pytest.raises(ModelRefused, match="changed"):
            self.load(kept)


@pytest.mark.parametrize("suffix", [".ubj", ".txt", ".onnx", ".skops", ".pkl"])
def test_a_file_of_rubbish_is_refused_without_its_path(tmp_path: Path, suffix: str):
    rubbish = tmp_path / f"rubbish{suffix}"
    rubbish.write_bytes(b"\x00rubbish" * 50)
    folder = ArtifactFolder(tmp_path / "models")
    artifact = folder.save(rubbish)
    with pytest.raises(TrueupError) as caught:
        Loader(folder, scorers.load).load_all(
            ModelVersion("c", "1", (artifact,), CONTRACT), Serving(allowed_pickles=(artifact.digest,))
        )
    assert str(tmp_path) not in caught.value.message


def test_a_pickle_is_loaded_only_where_its_digest_is_allowed(tmp_path: Path):
    folder = ArtifactFolder(tmp_path / "models")
    artifact = folder.save(pickle_model(tmp_path))
    with pytest.raises(ModelRefused, match="pickle"):
        Loader(folder, scorers.load).load_all(ModelVersion("c", "1", (artifact,), CONTRACT), Serving())


def test_another_library_version_is_refused_by_name(tmp_path: Path):
    folder = ArtifactFolder(tmp_path / "models")
    artifact = folder.save(lightgbm_model(tmp_path))
    version = ModelVersion("c", "1", (artifact,), CONTRACT, libraries=(("lightgbm", "3.1.0"),))
    with pytest.raises(ModelRefused, match=r"lightgbm 3\.1\.0"):
        Loader(folder, scorers.load).load_all(version, Serving())


def test_a_model_whose_scores_depend_on_the_batch_is_not_deployed_as_bitwise(tmp_path: Path):
    folder = ArtifactFolder(tmp_path / "models")
    version = ModelVersion("c", "1", (folder.save("python:small_models:depends_on_batch"),), CONTRACT)
    loaded = Loader(folder, scorers.load).load_all(version, Serving())
    with pytest.raises(ParityError, match="alone"):
        parity.compare(version, loaded, Serving())
    parity.compare(version, loaded, Serving(replay_grade=ReplayGrade.TOLERANCE, tolerance=1e-9))


def two_runtimes(tmp_path: Path, serving: Serving, other: Any = None) -> Any:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, Y)
    converted = to_onnx(other or model, X[:1].astype(np.float32), options={"zipmap": False})
    (tmp_path / "m.onnx").write_bytes(converted.SerializeToString())
    folder = ArtifactFolder(tmp_path / "models")
    version = ModelVersion("c", "1", (folder.save(model), folder.save(tmp_path / "m.onnx")), CONTRACT)
    return parity.compare(version, Loader(folder, scorers.load).load_all(version, serving), serving)


def test_parity_is_measured_and_without_a_tolerance_never_switches(tmp_path: Path):
    (found,) = two_runtimes(tmp_path, Serving(replay_grade=ReplayGrade.RECORD_ONLY))
    assert 0 < found.max_difference < 1e-5
    assert found.switch_at == 0


def test_parity_within_the_tolerance_may_switch(tmp_path: Path):
    (found,) = two_runtimes(tmp_path, Serving(replay_grade=ReplayGrade.TOLERANCE, tolerance=1e-4))
    assert found.switch_at >= 0


def test_runtimes_that_disagree_are_not_deployed(tmp_path: Path):
    from sklearn.linear_model import LogisticRegression

    serving = Serving(replay_grade=ReplayGrade.RECORD_ONLY)
    with pytest.raises(ParityError, match="differs from"):
        two_runtimes(tmp_path, serving, LogisticRegression(C=0.001).fit(X, Y))
