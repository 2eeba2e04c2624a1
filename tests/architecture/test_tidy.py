"""House rules that no linter knows: sizes, headers, names, and what no commit may hold."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("domain", "storage", "actors", "deployments", "serve_app", "cluster")
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FILE_BYTES_MAX = 2 * 1024 * 1024
BUNDLES = ROOT / "cluster" / "demo" / "catalogue"  # goods, not house: sellers' code keeps its own style
MODULES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if BUNDLES not in path.parents
)
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short_has_a_header_and_short_functions(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert ast.get_docstring(tree), "a module says what it decides and what it refuses"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


def test_no_module_is_called_after_nothing():
    vague = [name(p) for p in MODULES if re.search(r"(utils?|helpers?|managers?|common|misc)\.py$", p.name)]
    assert vague == []


def test_no_marker_of_unfinished_work():
    marker = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")
    found = [name(p) for p in MODULES if marker.search(p.read_text(encoding="utf-8"))]
    assert found == []


def test_production_never_disables_asserts():
    """Invariants are asserted in production, so nothing that starts it may say ``-O``."""
    starters = [p for p in TRACKED if p.name in ("Makefile", "Dockerfile", "run") or p.suffix == ".yaml"]
    assert [name(p) for p in starters if re.search(r"python3? -O|PYTHONOPTIMIZE", p.read_text())] == []


def test_no_commit_holds_a_host_of_a_registry_or_a_path_of_a_machine():
    bad = re.compile(r"https?://[^\s\"]*/(simple|packages)/|--(extra-)?index-url|/work/[a-z]|/root/\.")
    found = [
        name(p)
        for p in TRACKED
        if p.is_file() and p.suffix in {".py", ".txt", ".toml", ".md", ".sql", ".html", ".js", ".css", ""}
        if bad.search(p.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert found == []


def test_no_large_file_is_committed():
    assert [name(p) for p in TRACKED if p.is_file() and p.stat().st_size > FILE_BYTES_MAX] == []


def test_runtime_dependencies_are_locked_with_hashes():
    for lock in ("run.txt", "dev.txt"):
        text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
        pins = re.findall(r"^[a-z0-9][^\s]*==", text, re.MULTILINE)
        assert len(pins) > 20
        assert text.count("--hash=sha256:") >= len(pins)
