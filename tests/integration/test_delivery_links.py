"""Links to deliveries in a real Postgres, as the serving role sees them."""

import psycopg
import pytest

from storage.market.deliveries import Deliveries
from storage.market.pool import build_pool
from tests.contracts.deliveries import DeliveriesContract, take

pytestmark = pytest.mark.integration
TABLES = "market.delivery_links, market.delivery_link_windows, market.joined_deliveries"


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}")
        yield connection


@pytest.fixture
async def store(migrated, owner):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    yield Deliveries(pool)
    await pool.close()


class TestPostgresDeliveries(DeliveriesContract):
    @pytest.fixture
    def later(self, owner):
        async def pass_time(seconds):
            shift = f"- interval '{seconds} seconds'"
            owner.execute(f"UPDATE market.delivery_link_windows SET opened_at = opened_at {shift}")
            owner.execute(f"UPDATE market.joined_deliveries SET expires_at = expires_at {shift}")

        return pass_time


async def test_the_record_is_not_rewritten(store, owner, migrated):
    await take(store, "dlv_a")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
        owner.execute("UPDATE market.delivery_links SET issued_to = 'buyer_bob'")
    with (
        psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as app,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        app.execute("UPDATE market.delivery_links SET issued_to = 'buyer_bob'")
