"""The TypeScript types are those of the OpenAPI document, they compile, and the typed call scores on the real door."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trueup
from clients import ANSWER, error, scripted
from serving import serving
from trueup.doors.auth import ApiRole

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
COMMITTED = ("package.json", "package-lock.json", ".npmrc", "schema.ts", "score.ts")
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
decision: {threshold: 0.5}
"""
PROGRAM = """
import { score } from "./out/score.js";
const server = { url: process.env.URL, key: process.env.KEY };
const given = [server, "t", JSON.parse(process.env.ROW), { key: "order-4711" }];
const first = await score(...given);
const again = await score(...given);
const wrong = await score(server, "t", { account: 1 }, { key: "x" }).catch((e) => ({ ...e, name: e.name }));
console.log(JSON.stringify({ first, again, wrong }));
"""


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed files, with what its lock names installed."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in COMMITTED:
        shutil.copy(CLIENT / name, folder / name)
    run(folder, "npm", "ci")
    return folder


@pytest.fixture(scope="module")
def compiled(project: Path) -> Path:
    run(project, "npx", "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--outDir", "out", "score.ts")
    (project / "program.mjs").write_text(PROGRAM)
    return project


def test_the_committed_types_are_those_of_the_document(project: Path):
    program = [sys.executable, "-c", "from trueup.doors.cli.server import main; main()", "openapi"]
    (project / "openapi.json").write_text(
        run(project, *program, TRUEUP_DATABASE_URL="postgresql://nobody@127.0.0.1:1/no")
    )
    run(project, "npm", "run", "generate")
    assert (project / "schema.ts").read_text() == (CLIENT / "schema.ts").read_text(), "run `make types`"


def test_types_and_call_compile_strictly(project: Path):
    run(project, "npm", "run", "check")
    wrong = (
        'await score({ url: "" }, "t", {}, { key: "a" });',
        'await score(server, "t", { x: [1] }, { key: "a" });',
        '(await score(server, "t", {}, { key: "a" })).nothing;',
    )
    wrong = (*wrong, 'await score(server, "t", {}, {});')
    given = 'import { score } from "./score.js";\nconst server = { url: "", key: "" };\n'
    (project / "wrong.ts").write_text(given + "\n".join(wrong))
    check = ["npx", "tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "wrong.ts"]
    done = subprocess.run(check, cwd=project, capture_output=True, text=True)
    assert done.stdout.count("error TS") == 4, done.stdout


def test_what_the_documents_show_compiles(project: Path):
    page = CLIENT.parents[1] / "docs" / "how-to" / "call-from-typescript.md"
    shown = re.findall(r"```typescript\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(shown) == 2
    for i, block in enumerate(shown):
        (project / f"shown{i}.ts").write_text(block)
    check = ("npx", "tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext")
    run(project, *check, "shown0.ts", "shown1.ts")


def test_the_lock_names_exact_versions_and_no_addresses():
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
    assert all(
        version[0].isdigit()
        for version in json.loads((CLIENT / "package.json").read_text())["devDependencies"].values()
    )


def test_the_typed_call_scores_on_the_real_door(compiled: Path, up: trueup.Trueup):
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as served:
        environment = {"URL": f"http://{served.address}", "KEY": served.keys[ApiRole.SCORER]}
        row = json.dumps({"account": "007", "amount": 250000.0})
        found = json.loads(run(compiled, "node", "program.mjs", **environment, ROW=row))
        assert (found["first"]["score"], found["first"]["repeated"]) == (0.25, False)
        assert found["again"] == {**found["first"], "repeated": True}
        assert (found["wrong"]["name"], found["wrong"]["status"]) == ("TrueupError", 422)
        assert {f["field"] for f in found["wrong"]["body"]["fields"]} == {"account", "amount"}
        assert served.count() == 1


def test_the_typed_call_asks_again_under_the_same_key(compiled: Path):
    with scripted((503, {}, error("overloaded")), (429, {}, b""), (200, {}, ANSWER)) as server:
        run(compiled, "node", "program.mjs", URL=server.url, KEY="tu_x", ROW="{}")
        assert server.keys[:4] == ["order-4711"] * 4
