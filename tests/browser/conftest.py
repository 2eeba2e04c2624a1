"""One Chromium and one web server for all tests here."""

import pytest

from tests.browser import chromium
from tests.browser.site import Site


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if chromium.program() is None:
        pytest.skip("there is no Chromium here")
    with chromium.running(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="session")
def site():
    served = Site()
    yield served
    served.close()
