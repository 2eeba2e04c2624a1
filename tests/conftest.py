"""Shared by all tests: contract suites get pytest's readable assertion messages too."""

import pytest

pytest.register_assert_rewrite("tests.contracts")
