"""The documentation is complete, and what it shows is true."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import trueup
from trueup.alerts.reading import SHIPPED as RULES
from trueup.alerts.reading import RuleFolders
from trueup.reports.reading import SHIPPED as REPORTS
from trueup.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_between_pages_resolves(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """Variable and meaning of every setting, those of groups too."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", field.description or "no description"


def test_every_setting_is_documented_with_its_meaning():
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    for variable, meaning in _settings(Settings, "TRUEUP_"):
        assert f"| `{variable}` |" in text
        assert meaning in text, variable


@pytest.mark.parametrize("page", ["docs/reference/contract.md", "docs/tutorials/first-prediction.md"])
def test_documented_contracts_are_contracts(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert trueup.load_contract(block).name == "settlement"


def test_the_bookings_steps_have_the_same_names_in_code_and_docs():
    import trueup.ledger.postgres as module

    code = re.findall(r"^(\d)\. \*(\w+)\*", module.__doc__ or "", re.MULTILINE)
    docs = re.findall(r"^\| (\d) (\w+) \|", (ROOT / "docs/explanation/booking.md").read_text(), re.MULTILINE)
    assert code == docs
    assert len(code) == 5


def test_the_reloads_steps_have_the_same_names_in_code_and_docs():
    import trueup.scoring.models as module

    code = re.findall(r"^(\d)\. \*(\w+)\*", module.__doc__ or "", re.MULTILINE)
    docs = re.findall(r"^\| (\d) (\w+) \|", (ROOT / "docs/explanation/hot-reload.md").read_text(), re.MULTILINE)
    assert code == docs
    assert len(code) == 5


def test_the_clocks_steps_are_the_same_in_code_and_docs():
    import trueup.doors.clock.server as module

    steps = (ROOT / "docs/explanation/clock.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert len(_numbered(steps)) == 5
    assert _numbered(steps) == _numbered((module.__doc__ or "").replace("``", "`"))


def _numbered(text: str) -> list[str]:
    """The items of its first numbered list, without their line breaks."""
    found = re.findall(r"^\d\. .*(?:\n(?=\s).*\S)*", text, re.MULTILINE)
    return [" ".join(item.split()) for item in found[:5]]


def test_the_streams_steps_and_parts_are_the_same_in_code_and_docs():
    import trueup.doors.kafka.server as server
    import trueup.ledger.streaming as ledger

    _, steps, parts, *_ = (ROOT / "docs/explanation/streams.md").read_text(encoding="utf-8").split("\n## ")
    for text, module in ((steps, server), (parts, ledger)):
        assert len(_numbered(text)) == 5
        assert _numbered(text) == _numbered((module.__doc__ or "").replace("``", "`"))


def test_each_line_of_the_streams_failure_table_names_a_test_that_there_is():
    text = (ROOT / "docs/explanation/streams.md").read_text(encoding="utf-8").partition("## If it stops")[2]
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/test_*.py"))
    scenarios = set(re.findall(r"Scenario: (.*)", (ROOT / "tests/acceptance/streams.feature").read_text("utf-8")))
    steps = re.search(r"^STEPS.*?^\}", (ROOT / "tests/killed_stream.py").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.split("|")[-2] for line in text.splitlines() if line.startswith("|")][2:]
    assert len(lines) > 15
    assert all(re.search(r"killed `|`test_|\"", line) for line in lines)
    assert all(f"def {name}(" in code for name in re.findall(r"`(test_\w+)`", text))
    assert scenarios >= set(re.findall(r'"([A-Z].*?)"', "\n".join(lines)))
    assert steps
    killed = {name for line in lines if "killed" in line for name in re.findall(r"`([a-z]+)`", line)}
    assert killed == set(re.findall(r'^    "(\w+)"', steps[0], re.MULTILINE))


def test_the_plans_of_streams_are_what_the_named_figures_give():
    text = (ROOT / "docs/explanation/sizing.md").read_text(encoding="utf-8")
    value = {n: float(v.replace(",", "")) for n, v in re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", text, re.MULTILINE)}
    plans = {name: cells for name, *cells in (line.strip("| ").split(" | ") for line in text.splitlines())}
    for i, peak in enumerate((10_000, 50_000, 200_000, 1_000_000)):
        processes = math.ceil(peak / (value["consume"] * value["busy"])) + 1
        assert plans["processes (cores)"][i] == str(processes)
        assert int(plans["partitions"][i]) >= processes * value["spread"]
        assert plans["PostgreSQL instances"][i] == str(math.ceil(peak / (value["book"] * value["busy"])))
        at_rest = peak * value["mean"] * 86_400 * value["hot"] * value["row"] / 1e12
        assert plans["PostgreSQL's disks, `hot` days"][i].startswith(f"{at_rest:.1f} TB")
        for line, bytes_per_s in (
            ("Kafka in, and out", peak * value["event"]),
            ("write-ahead log, all instances", peak * value["wal"]),
        ):
            assert plans[line][i].startswith(f"{bytes_per_s / 1e6:.0f} MB/s")


def test_the_shipped_rules_are_listed_with_their_parameters():
    text = (ROOT / "docs/reference/alert-rules.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (every \w+) \| (.*) \|$", text, re.MULTILINE)
    folders = RuleFolders([RULES])
    files = {path.stem: folders.rule(path.stem) for path in sorted(RULES.glob("*.sql"))}
    assert listed == [
        (
            *(name, one.rule.name, str(one.rule.severity), one.rule.schedule),
            ", ".join(f"`{p.name}` {p.default:g}" for p in one.file.parameters),
        )
        for name, one in files.items()
    ]


def test_the_shipped_reports_are_listed():
    text = (ROOT / "docs/reference/report-files.md").read_text(encoding="utf-8")
    section = text.partition("## Shipped reports")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(p.stem for p in REPORTS.glob("*.sql"))
