"""Fixtures of the tests under real faults; those marked ``faults`` run only when asked for: ``-m faults``."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_load("harness_proxy")
_load("harness_shoppers")
_harness = _load("harness")


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "faults: kills, stops and cuts parts of a whole marketplace for minutes; run by `-m faults`",
    )


def pytest_collection_modifyitems(config, items):
    if "faults" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="takes minutes: run `pytest tests/cluster -m faults`")
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(skip)


def _stand_lives(fixture_name, config):
    """For all tests where many break it; else it would idle under those that come after its one."""
    return "session" if "faults" in config.option.markexpr else "module"


@pytest.fixture(scope=_stand_lives)
def stand():
    """A marketplace to break. Each test leaves it whole."""
    with _harness.running(_harness.ProxiedStack(_harness.new_home())) as stack:
        yield _harness.Stand(stack)
