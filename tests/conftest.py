"""Shared by all tests: contract suites get pytest's readable assertion messages too; the order of tests."""

import pytest

from tests import scheduling

pytest.register_assert_rewrite("tests.contracts")


def pytest_collection_modifyitems(items):
    scheduling.in_order(items)


def pytest_xdist_make_scheduler(config, log):
    return scheduling.AloneLast(config, log)
