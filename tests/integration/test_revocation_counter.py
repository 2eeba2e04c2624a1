"""The revocation list's version in Postgres: every change raises it, nothing lowers it."""

import asyncio

import psycopg
import pytest

from storage.market.licences import LicenceReads
from storage.market.pool import build_pool

pytestmark = pytest.mark.integration


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE market.licences CASCADE")
        yield connection


@pytest.fixture
async def reads(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield LicenceReads(pool)
    await pool.close()


def issue(owner, number, status="active"):
    owner.execute(
        "INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity,"
        " status, key_id, envelope, issued_at) VALUES (%s, %s, 1, 'b', 's', 'r', 1, %s, 'k', 'e', now())",
        [f"lic_{number}", f"ord_{number}", status],
    )


async def test_every_change_of_a_status_has_a_version_of_its_own(owner, reads):
    issue(owner, 1)
    issue(owner, 2)
    versions = [(await reads.revocations()).version]
    for status in ("suspended", "active", "suspended", "revoked"):
        owner.execute("UPDATE market.licences SET status = %s WHERE licence_id = 'lic_1'", [status])
        found = await reads.revocations()
        versions.append(found.version)
        assert "lic_1" in {"suspended": found.suspended, "revoked": found.revoked}.get(status, ["lic_1"])
    assert versions == sorted(set(versions))
    # What changes nothing of the list leaves its version.
    owner.execute("UPDATE market.licences SET status = status")
    issue(owner, 3)
    assert (await reads.revocations()).version == versions[-1] == await reads.list_version()


async def test_a_change_that_is_rolled_back_leaves_no_version(owner, reads):
    issue(owner, 1)
    before = await reads.revocations()
    with owner.transaction(force_rollback=True):
        owner.execute("UPDATE market.licences SET status = 'revoked'")
    assert await reads.revocations() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE market.revocation_list SET version = version - 1",
        "UPDATE market.revocation_list SET version = version",
        "DELETE FROM market.revocation_list",
        "INSERT INTO market.revocation_list (version) VALUES (1)",
    ],
)
def test_nobody_lowers_it(owner, migrated, statement):
    with pytest.raises(psycopg.errors.IntegrityError):
        owner.execute(statement)
    with (
        psycopg.connect(migrated.dsn_for("market_app")) as serving,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        serving.execute(statement)


def test_the_days_of_grace_are_part_of_the_list(owner, migrated):
    ((before,),) = owner.execute("SELECT version FROM market.revocation_list").fetchall()
    with owner.transaction(force_rollback=True):
        # What asks for the operators' approvals is switched off: only the effect on the list is asked here.
        owner.execute("ALTER TABLE market.governed_versions DISABLE TRIGGER ALL")
        owner.execute("DELETE FROM market.governed_versions WHERE kind = 'licence_model'")
        owner.execute("ALTER TABLE market.governed_versions ENABLE TRIGGER grace_changes_the_list")
        owner.execute(
            "INSERT INTO market.governed_versions (kind, version, document, document_sha256)"
            " VALUES ('licence_model', 1, %(text)s, encode(sha256(convert_to(%(text)s, 'UTF8')), 'hex'))",
            {"text": '{"grace_days":9}'},
        )
        assert owner.execute("SELECT version FROM market.revocation_list").fetchone() == (before + 1,)


async def test_one_version_never_stands_for_two_lists(owner, reads, migrated):
    """Many writers and many readers at once: whoever reads a version reads the same ids."""
    for number in range(20):
        issue(owner, number)

    async def change(number):
        async with await psycopg.AsyncConnection.connect(
            migrated.dsn_for("market_app"), autocommit=True
        ) as connection:
            for status in ("suspended", "active", "revoked"):
                await connection.execute(
                    "UPDATE market.licences SET status = %s WHERE licence_id = %s", [status, f"lic_{number}"]
                )

    found = {}
    done = asyncio.Event()

    async def watch():
        last = 0
        while not done.is_set():
            one = await reads.revocations()
            assert one.version >= last
            last = one.version
            assert found.setdefault(one.version, one) == one

    watchers = [asyncio.create_task(watch()) for _ in range(3)]
    before = await reads.list_version()
    await asyncio.gather(*(change(number) for number in range(20)))
    done.set()
    await asyncio.gather(*watchers)
    assert await reads.list_version() == before + 60
    assert len(found) > 1
