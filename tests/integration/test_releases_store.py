"""Releases' standing in a real Postgres, as the serving role sees it."""

import asyncio
from functools import partial

import psycopg
import pytest

from domain.errors import ConflictError
from storage.market.catalogue import Catalogue
from storage.market.pool import build_pool
from storage.market.publications import Publications
from storage.market.releases import Releases
from tests.contracts.publications import PublicationsContract
from tests.contracts.releases import ReleasesContract
from tests.fakes import releasing

pytestmark = pytest.mark.integration
TABLES = (
    "market.publication_attempts, market.bundle_uploads, market.release_uploads, market.releases, "
    "market.sku_prices, market.skus, market.seller_keys"
)


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        connection.execute(f"TRUNCATE market.commands, {TABLES} CASCADE")
        yield connection


@pytest.fixture
async def pool(migrated, owner):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await made.open(wait=True)
    yield made
    await made.close()


@pytest.fixture
async def catalogue(pool):
    made = Catalogue(pool)
    await made.create_sku(releasing.write("sku"), releasing.SKU, {})
    return made


@pytest.fixture
def publications(pool):
    return Publications(pool)


@pytest.fixture
def publish(catalogue, publications):
    return partial(releasing.publish, catalogue, publications)


class _Postgres:
    @pytest.fixture
    def standing(self, pool, catalogue):
        return Releases(pool)

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
    def later(self, owner):
        async def pass_time(seconds):
            for table, column in (
                ("release_uploads", "begun_at"),
                ("publication_attempts", "lease_until"),
                ("bundle_uploads", "drop_after"),
            ):
                owner.execute(f"UPDATE market.{table} SET {column} = {column} - interval '{seconds} seconds'")

        return pass_time


class TestPostgresReleases(_Postgres, ReleasesContract):
    @pytest.fixture
    def store(self, standing):
        return standing


class TestPostgresPublications(_Postgres, PublicationsContract):
    @pytest.fixture
    def store(self, publications, catalogue):
        return publications


async def test_of_many_publications_at_once_the_channel_only_rises(publish):
    numbers = range(1, 13)
    outcomes = await asyncio.gather(
        *(publish(n, f"1.{n}.0", "stable") for n in numbers), return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, ConflictError)]
    assert all(one.code == "version_not_newer" for one in refused)
    assert len([one for one in outcomes if isinstance(one, str)]) + len(refused) == len(numbers)


async def test_a_published_release_never_changes_whoever_asks(publish, owner, migrated):
    release_id = await publish(1, "1.0.0", "stable")
    for change in (
        "SET bundle_sha256 = 'x'",
        "SET version = '9.0.0'",
        "SET channel = 'beta'",
        "SET state = 'draft'",
        "SET payload_version = 'v2'",
    ):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            owner.execute(f"UPDATE market.releases {change} WHERE release_id = '{release_id}'")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
        owner.execute(f"DELETE FROM market.releases WHERE release_id = '{release_id}'")
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("UPDATE market.releases SET state = 'yanked'")
    yanked = "SET state = 'yanked', yanked_at = now(), yanked_by = 'o', yank_reason = 'r'"
    owner.execute(f"UPDATE market.releases {yanked}")
    for change in ("SET yank_reason = 'another'", "SET state = 'published', yanked_at = NULL"):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            owner.execute(f"UPDATE market.releases {change}")


async def test_a_quote_is_of_the_channel_that_is_asked_for(catalogue, publish):
    await publish(1, "1.0.0", "stable")
    await publish(2, "2.0.0-beta.1", "beta")
    sku_id = releasing.SKU_ID
    for _ in range(2):  # from the database, then from what is remembered
        assert (await catalogue.offers([sku_id], "USD"))[sku_id].version == "1.0.0"
        assert (await catalogue.offers([sku_id], "USD", {sku_id: "beta"}))[sku_id].version == "2.0.0-beta.1"
    with pytest.raises(ConflictError, match="sku_unpublished"):
        await catalogue.offers([sku_id], "USD", {sku_id: "nightly"})
    assert (await catalogue.find("logline")).latest_release.version == "1.0.0"
