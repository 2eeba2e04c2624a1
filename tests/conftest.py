"""Shared by all tests: contract suites get pytest's readable assertion messages too; the order of tests."""

import pytest

from tests import scheduling

pytest.register_assert_rewrite("tests.contracts")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: scheduling.rank(item.nodeid))


def pytest_xdist_make_scheduler(config, log):
    return scheduling.AloneLast(config, log)
