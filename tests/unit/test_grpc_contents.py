"""Typed contents are what raw contents are, and what fits neither is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from grpc_calls import FIELDS, Tensor, infer_request
from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Columns, Decoded
from trueup.doors.inference.grpc.contents import parameters_of, payload_of, wanted
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.oip.schemas import TensorMetadata
from trueup.errors import InvalidInput
from trueup.settings import Limits

DECODER = Decoder(
    trueup.load_contract(
        "name: c\nversion: 1\nfields:\n  item: {type: string, role: key}\n"
        "  a: {type: float64, allow_nan: true, allow_infinity: true}\n  b: {type: float64, nullable: true}\n"
        "  lots: int64\n  open: {type: bool, nullable: true}\noutput: {kind: value}\n"
    ),
    Limits(),
)
NUMBERS = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
INTEGERS = {"INT64": 64, "INT32": 32, "INT16": 16, "INT8": 8, "UINT32": -32, "UINT16": -16, "UINT8": -8}


def integers(datatype: str) -> st.SearchStrategy[int]:
    bits = INTEGERS[datatype]
    return st.integers(0, 2**-bits - 1) if bits < 0 else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def tensors_of(draw: st.DrawFn) -> tuple[list[Tensor], int]:
    """Inputs of one request of 0 to 4 rows, datatypes drawn as well."""
    n = draw(st.integers(0, 4))
    rows = {"min_size": n, "max_size": n}
    text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8).map(str.encode)
    lots, b = draw(st.sampled_from(list(INTEGERS))), draw(st.sampled_from(["FP64", "FP32"]))
    inputs: list[Tensor] = [
        ("item", "BYTES", draw(st.lists(text, **rows))),
        ("lots", lots, draw(st.lists(integers(lots), **rows))),
        ("a", "FP64", draw(st.lists(NUMBERS, **rows))),
        ("b", b, draw(st.lists(FINITE, **rows))),
    ]
    if draw(st.booleans()):
        inputs.append(("open", "BOOL", draw(st.lists(st.booleans(), **rows))))
    if draw(st.booleans()):
        inputs.append(("b.is_null", "BOOL", draw(st.lists(st.booleans(), **rows))))
    return draw(st.permutations(inputs)), n


def decoded(*requests: pb.ModelInferRequest) -> Decoded:
    payloads = [payload_of(request, 100) for request in requests]
    assert len({p.form for p in payloads}) == 1
    return payloads[0].decode(DECODER, [p.payload for p in payloads])


def same(one: Columns, other: Columns) -> bool:
    pairs = [(one.float_nulls, other.float_nulls), (one.int_nulls, other.int_nulls)]
    return (
        np.array_equal(one.floats, other.floats, equal_nan=True)
        and np.array_equal(one.ints, other.ints)
        and one.texts.tolist() == other.texts.tolist()
        and all(np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in pairs)
    )


@given(tensors_of())
def test_typed_and_raw_contents_are_the_same_instances(drawn: tuple[list[Tensor], int]):
    inputs, n = drawn
    typed = decoded(infer_request(*inputs, raw=False, rows=n))
    raw = decoded(infer_request(*inputs, raw=True, rows=n))
    assert typed.errors == raw.errors
    assert same(typed.columns, raw.columns)


@given(st.lists(tensors_of(), min_size=2, max_size=3))
def test_typed_requests_of_one_form_are_decoded_as_one(drawn: list[tuple[list[Tensor], int]]):
    form = [(name, datatype) for name, datatype, _ in drawn[0][0]]
    alike = [d for d in drawn if [(name, datatype) for name, datatype, _ in d[0]] == form]
    requests = [infer_request(*inputs, raw=False, rows=n) for inputs, n in alike]
    assert same(decoded(*requests).columns, Columns.joined([decoded(one).columns for one in requests]))


def test_a_matrix_comes_typed_too():
    request = infer_request(("item", "BYTES", [b"a", b"b"]), ("lots", "INT8", [1, 2]),
                            ("features", "FP32", [1.0, 2.0, 3.0, 4.0]), raw=False)  # fmt: skip
    assert decoded(request).columns.floats.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def good() -> pb.ModelInferRequest:
    return infer_request(("item", "BYTES", [b"a"]), ("lots", "INT32", [1]), ("a", "FP64", [1.0]), ("b", "FP64", [2.0]),
                         raw=False)  # fmt: skip


@pytest.mark.parametrize("datatype", FIELDS)
@pytest.mark.parametrize("place", range(4))
def test_contents_in_another_datatypes_field_are_refused(datatype: str, place: int):
    request = good()
    tensor = request.inputs[place]
    if FIELDS[datatype] != FIELDS[tensor.datatype]:
        value: Any = b"x" if datatype == "BYTES" else 1
        getattr(tensor.contents, FIELDS[datatype]).append(value)  # beside the right one
        with pytest.raises(InvalidInput, match="and no other field"):
            decoded(request)
        tensor.contents.ClearField(FIELDS[tensor.datatype])
        with pytest.raises(InvalidInput, match="and no other field"):
            decoded(request)


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT16", -40_000), ("UINT8", 256), ("UINT16", 70_000)])
def test_an_element_outside_of_its_datatype_is_refused(datatype: str, value: int):
    request = good()
    request.inputs[1].datatype = datatype
    request.inputs[1].contents.Clear()
    getattr(request.inputs[1].contents, FIELDS[datatype]).append(value)
    with pytest.raises(InvalidInput, match="outside of its tensor's datatype"):
        decoded(request)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r.inputs[2].contents.fp64_contents.append(1.0), "do not fill"),
        (lambda r: r.inputs[2].ClearField("contents"), "do not fill"),
        (lambda r: r.inputs[2].shape.append(2), "one column"),
        (lambda r: r.inputs[2].shape.insert(0, -1), "neither negative"),
        (lambda r: r.inputs[2].shape.__setitem__(0, 10**12), "at most 100"),
        (lambda r: r.inputs[2].ClearField("shape"), "must be"),
        (lambda r: setattr(r.inputs[2], "datatype", "FP16"), "no typed contents"),
        (lambda r: setattr(r.inputs[2], "datatype", "fp64"), "no typed contents"),
        (lambda r: setattr(r.inputs[2], "name", "c"), "no field of its name"),
        (lambda r: setattr(r.inputs[2], "name", "b"), "twice"),
        (lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff"), "not UTF-8"),
        (lambda r: r.raw_input_contents.append(b""), "not both"),
        (lambda r: r.inputs[2].parameters["shared_memory_region"].string_param.__class__, "shared memory"),
        (lambda r: r.ClearField("inputs"), "at least one input"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, text: str):
    request = good()
    change(request)
    with pytest.raises(InvalidInput, match=text):
        decoded(request)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_raw_contents_are_one_for_each_input(count: int):
    request = infer_request(("item", "BYTES", [b"a"]), ("lots", "INT32", [1]), ("a", "FP64", [1.0]),
                            ("b", "FP64", [2.0]), raw=True)  # fmt: skip
    del request.raw_input_contents[count:]
    request.raw_input_contents.extend([b""] * (count - 4))
    with pytest.raises(InvalidInput, match="one entry for each input"):
        payload_of(request, 100)


def test_parameters_have_five_kinds():
    request = pb.ModelInferRequest()
    request.parameters["a"].bool_param = False
    request.parameters["b"].int64_param = -(2**63)
    request.parameters["c"].string_param = ""
    request.parameters["d"].double_param = 0.5
    request.parameters["e"].uint64_param = 2**64 - 1
    assert parameters_of(request.parameters) == {"a": False, "b": -(2**63), "c": "", "d": 0.5, "e": 2**64 - 1}
    request.parameters["f"].SetInParent()
    with pytest.raises(InvalidInput, match="has no value"):
        parameters_of(request.parameters)


def test_outputs_are_those_that_are_asked_for():
    about = [TensorMetadata("score", "FP64", [-1]), TensorMetadata("status", "BYTES", [-1])]
    request = pb.ModelInferRequest()
    assert wanted(request, about) == about
    request.outputs.add(name="status")
    assert wanted(request, about) == about[1:]
    request.outputs[0].parameters["classification"].int64_param = 3
    with pytest.raises(InvalidInput, match="no other form"):
        wanted(request, about)
    request.outputs[0].name = "other"
    with pytest.raises(InvalidInput, match="has not"):
        wanted(request, about)
