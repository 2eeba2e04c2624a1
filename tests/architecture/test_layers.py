"""The rooms and arrows of docs/architecture.md, enforced."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("domain", "storage", "actors", "deployments", "serve_app", "cluster")


def test_the_domain_imports_the_standard_library_alone():
    """Measured on what a fresh interpreter loads, not only on what the text says."""
    modules = sorted(
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in (ROOT / "domain").rglob("*.py")
    )
    program = (
        "import sys, importlib\n"
        "before = set(sys.modules)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "foreign = sorted(loaded - set(sys.stdlib_module_names) - {'domain'})\n"
        "assert not foreign, foreign\n"
        "assert 'asyncio' not in loaded, 'asyncio'\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "forbidden", ["time.time", "datetime.now", "datetime.utcnow", "os.environ", "random."]
)
def test_the_domain_has_no_clock_no_chance_and_no_environment(forbidden):
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "domain").rglob("*.py")
        if forbidden in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_arrows_point_down():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_composition_roots_read_the_environment():
    """``cluster`` holds the processes' entry points; nothing below it may look around."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES[:-1]
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert found == []
