"""The gRPC door speaks the public protocol, by names and numbers, and one code for each error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from grpc import StatusCode

from trueup import errors
from trueup.domain.contract import FieldError
from trueup.doors.inference.grpc.errors import status_of, text
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "src/trueup/doors/inference/grpc/generated"

# Message, then its fields by number, as the Open Inference Protocol and Triton's extensions publish them.
PUBLISHED = {
    "ServerLiveResponse": ["live"],
    "ServerReadyResponse": ["ready"],
    "ModelReadyRequest": ["name", "version"],
    "ModelReadyResponse": ["ready"],
    "ServerMetadataResponse": ["name", "version", "extensions"],
    "ModelMetadataRequest": ["name", "version"],
    "ModelMetadataResponse": ["name", "versions", "platform", "inputs", "outputs"],
    "ModelMetadataResponse.TensorMetadata": ["name", "datatype", "shape"],
    "InferParameter": ["bool_param", "int64_param", "string_param", "double_param", "uint64_param"],
    "InferTensorContents": ["bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
                            "fp32_contents", "fp64_contents", "bytes_contents"],
    "ModelInferRequest": ["model_name", "model_version", "id", "parameters", "inputs", "outputs",
                          "raw_input_contents"],
    "ModelInferRequest.InferInputTensor": ["name", "datatype", "shape", "parameters", "contents"],
    "ModelInferRequest.InferRequestedOutputTensor": ["name", "parameters"],
    "ModelInferResponse": ["model_name", "model_version", "id", "parameters", "outputs", "raw_output_contents"],
    "ModelInferResponse.InferOutputTensor": ["name", "datatype", "shape", "parameters", "contents"],
    "ModelStreamInferResponse": ["error_message", "infer_response"],
    "RepositoryIndexRequest": ["repository_name", "ready"],
    "RepositoryIndexResponse": ["models"],
    "RepositoryIndexResponse.ModelIndex": ["name", "version", "state", "reason"],
    "RepositoryModelLoadRequest": ["repository_name", "model_name", "parameters"],
    "RepositoryModelUnloadRequest": ["repository_name", "model_name", "parameters"],
    "ModelRepositoryParameter": ["bool_param", "int64_param", "string_param", "bytes_param"],
}  # fmt: skip


def test_the_committed_code_is_what_the_proto_file_makes(tmp_path: Path):
    made = ["make", "-s", "proto", f"OUT={tmp_path}", f"BIN={Path(sys.executable).parent}"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    fresh = {p.name: p.read_text("utf-8") for p in tmp_path.rglob("*_pb2*.py*")}
    committed = {p.name: p.read_text("utf-8") for p in GENERATED.glob("*_pb2*.py*")}
    assert sorted(committed) == ["open_inference_pb2.py", "open_inference_pb2.pyi", "open_inference_pb2_grpc.py"]
    assert committed == fresh, "run `make proto`"


@pytest.mark.parametrize("message", PUBLISHED)
def test_fields_have_the_published_numbers(message: str):
    found = pb.DESCRIPTOR
    for part in message.split("."):
        found = (found.message_types_by_name if found is pb.DESCRIPTOR else found.nested_types_by_name)[part]
    assert [f.name for f in sorted(found.fields, key=lambda f: f.number)] == PUBLISHED[message]
    assert [f.number for f in found.fields] == list(range(1, len(found.fields) + 1))


def test_the_service_and_its_methods_have_the_published_names():
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "inference.GRPCInferenceService"
    assert set(service.methods_by_name) == {
        *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
        *("ModelStreamInfer", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    }
    stream = service.methods_by_name["ModelStreamInfer"]
    assert (stream.client_streaming, stream.server_streaming) == (True, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), StatusCode.INVALID_ARGUMENT),
        (errors.InstanceErrors(()), StatusCode.INVALID_ARGUMENT),
        (errors.Unauthenticated("x"), StatusCode.UNAUTHENTICATED),
        (errors.Forbidden("x"), StatusCode.PERMISSION_DENIED),
        (errors.NotFound("x"), StatusCode.NOT_FOUND),
        (errors.Conflict("x"), StatusCode.ALREADY_EXISTS),
        (errors.ScoringError("x"), StatusCode.INTERNAL),
        (errors.ModelRefused("x"), StatusCode.FAILED_PRECONDITION),
        (errors.Overloaded("x"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.LedgerUnavailable("x"), StatusCode.UNAVAILABLE),
        (errors.Unavailable("x"), StatusCode.UNAVAILABLE),
        (errors.TimedOut("x"), StatusCode.DEADLINE_EXCEEDED),
        (errors.MissingExtra("e", "p"), StatusCode.UNIMPLEMENTED),
        (errors.TrueupError("x"), StatusCode.INTERNAL),
    ],
)
def test_every_error_has_its_code(error: errors.TrueupError, code: StatusCode):
    assert status_of(error) is code


def test_an_error_names_rows_fields_and_codes():
    found = errors.InstanceErrors((FieldError(3, "amount", "too_small", "at least 0"),))
    assert "row 3, amount: too_small (at least 0)" in text(found)
