"""The fake stores of releases' standing and of publications keep the contracts that Postgres keeps."""

from functools import partial

import pytest

from tests.contracts.publications import PublicationsContract
from tests.contracts.releases import ReleasesContract
from tests.fakes import releasing
from tests.fakes.market_stores import FakeCatalogue, FakeCommands
from tests.fakes.orders import FakeClock, FakeOrderStore
from tests.fakes.publications import FakePublications
from tests.fakes.releases import FakeReleases


class _Fakes:
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    async def catalogue(self, clock):
        made = FakeCatalogue(FakeCommands(FakeOrderStore(clock)), clock)
        await made.create_sku(releasing.write("sku"), releasing.SKU, {})
        return made

    @pytest.fixture
    def standing(self, catalogue):
        return FakeReleases(catalogue)

    @pytest.fixture
    def publications(self, catalogue):
        return FakePublications(catalogue)

    @pytest.fixture
    def sku_id(self):
        return releasing.SKU_ID

    @pytest.fixture
    def write(self):
        return releasing.write

    @pytest.fixture
    def draft(self, catalogue):
        return partial(releasing.draft, catalogue)

    @pytest.fixture
    def publish(self, catalogue, publications):
        return partial(releasing.publish, catalogue, publications)

    @pytest.fixture
    def later(self, clock):
        async def pass_time(seconds):
            clock.advance(seconds)

        return pass_time


class TestFakeReleases(_Fakes, ReleasesContract):
    @pytest.fixture
    def store(self, standing):
        return standing


class TestFakePublications(_Fakes, PublicationsContract):
    @pytest.fixture
    def store(self, publications):
        return publications
