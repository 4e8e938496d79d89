"""The house drawn in ARCHITECTURE.md equals the imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "trueup"


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported() -> set[tuple[str, str]]:
    arrows = set()
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path.relative_to(PACKAGE).parts)
        if room.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "trueup":
                    names = [f"trueup.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "trueup" and len(parts) > 1 and parts[1] != room:
                    other = PACKAGE / parts[1]
                    if other.is_dir() or other.with_suffix(".py").exists():
                        arrows.add((room, parts[1]))
    return arrows


def test_the_drawing_equals_the_imports():
    drawing = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^ {4}(\w+) --> (\w+)$", drawing, re.MULTILINE))
    assert drawn - imported() == set()
    assert imported() - drawn == set()


def test_a_serving_process_holds_nothing_that_only_reports_alerts_and_measuring_need():
    heavy = ("sqlglot", "jinja2", "weasyprint", "scipy", "sklearn", "pandas", "procrastinate", "confluent_kafka")
    program = (
        "import sys, trueup.bootstrap, trueup.doors.api.server, trueup.doors.inference.server;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
