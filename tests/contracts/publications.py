"""What every store of publications promises; run on the fake and on Postgres.

Subclasses provide ``catalogue`` and ``store`` over one database with a SKU of ``seller_1``, ``draft(number,
version, channel)``, ``write(key)``, and ``later(seconds)``, which lets time pass for attempts.
"""

import asyncio
from dataclasses import replace

import pytest

from domain.errors import RejectedError
from storage.market.publications import Attempt, Sealed
from tests.fakes import releasing
from tests.fakes.carts import NOW

LEASE_S = 60.0
ONE = Attempt("payload/1", b"s" * 32, "v1")
OTHER = replace(ONE, payload_key="payload/2")
ANOTHER_STATEMENT = replace(OTHER, statement_sha256=b"t" * 32)
SEALED = Sealed("pv", "cd" * 32, 132, "ab" * 32, 100, "{}", "minisig", b"wrapped")


class PublicationsContract:
    @pytest.fixture
    async def release_id(self, catalogue, draft):
        await releasing.register_key(catalogue)
        return await draft(1, "1.0.0", "stable")

    async def test_an_attempt_that_lives_is_the_only_one(self, store, release_id):
        assert await store.begin(release_id, ONE, LEASE_S) == ONE
        assert await store.begin(release_id, OTHER, LEASE_S) == ONE
        assert await store.begin(release_id, ONE, LEASE_S) == ONE

    async def test_of_many_that_begin_at_once_one_does(self, store, release_id):
        wanted = [replace(ONE, payload_key=f"payload/{number}") for number in range(6)]
        begun = await asyncio.gather(*(store.begin(release_id, one, LEASE_S) for one in wanted))
        assert len({one.payload_key for one in begun}) == 1

    async def test_one_that_died_is_replaced_and_one_that_is_extended_lives(self, store, release_id, later):
        await store.begin(release_id, ONE, LEASE_S)
        await later(LEASE_S - 1)
        await store.extend(ONE.payload_key, LEASE_S)
        await later(LEASE_S - 1)
        assert await store.begin(release_id, OTHER, LEASE_S) == ONE
        await later(2)
        assert await store.begin(release_id, OTHER, LEASE_S) == OTHER
        # The first one is back, too late.
        await store.extend(ONE.payload_key, LEASE_S)
        await store.finish(ONE.payload_key, SEALED)
        assert await store.begin(release_id, ONE, LEASE_S) == OTHER

    async def test_what_one_that_died_has_sealed_is_taken_over(self, store, release_id, later):
        await store.begin(release_id, ONE, LEASE_S)
        await store.finish(ONE.payload_key, SEALED)
        await later(LEASE_S + 1)
        sealed = replace(ONE, sealed=SEALED)
        assert await store.begin(release_id, OTHER, LEASE_S) == sealed
        assert await store.begin(release_id, ANOTHER_STATEMENT, LEASE_S) == ANOTHER_STATEMENT

    async def test_one_that_is_given_up_is_replaced_at_once(self, store, release_id):
        await store.begin(release_id, ONE, LEASE_S)
        await store.abandon(ONE.payload_key)
        assert await store.begin(release_id, OTHER, LEASE_S) == OTHER
        # What is sealed is not given up.
        await store.finish(OTHER.payload_key, SEALED)
        await store.abandon(OTHER.payload_key)
        assert await store.begin(release_id, ONE, LEASE_S) == replace(OTHER, sealed=SEALED)

    async def test_only_the_current_attempt_publishes(self, store, catalogue, release_id, later, write):
        await store.begin(release_id, ONE, LEASE_S)
        await later(LEASE_S + 1)
        await store.begin(release_id, OTHER, LEASE_S)
        late = releasing.publication(release_id, 1, ONE.payload_key)
        assert await store.publish(write("late"), late, releasing.KEY_ID) is False
        assert (await catalogue.release(release_id)).state == "draft"
        right = releasing.publication(release_id, 1, OTHER.payload_key)
        assert await store.publish(write("right"), right, releasing.KEY_ID) is True
        assert (await catalogue.release(release_id)).state == "published"
        assert await store.publish(write("again"), right, releasing.KEY_ID) is False
        assert await store.begin(release_id, ONE, LEASE_S) is None

    async def test_a_key_that_was_revoked_meanwhile_publishes_nothing(
        self, store, standing, catalogue, release_id, write
    ):
        await store.begin(release_id, ONE, LEASE_S)
        await standing.revoke_key(write("r"), releasing.KEY_ID, "compromised", "stolen", NOW)
        wanted = releasing.publication(release_id, 1, ONE.payload_key)
        with pytest.raises(RejectedError, match="seller_key_revoked"):
            await store.publish(write("p"), wanted, releasing.KEY_ID)
        assert (await catalogue.release(release_id)).state == "draft"
        with pytest.raises(RejectedError, match="seller_key_revoked"):
            await store.publish(write("p"), wanted, "key_of_nobody")

    async def test_strays_are_what_ended_long_ago_and_never_revive(
        self, store, release_id, draft, later, write
    ):
        published = await draft(2, "1.1.0", "beta")
        kept = replace(ONE, payload_key="payload/kept")
        await store.begin(published, kept, LEASE_S)
        wanted = releasing.publication(published, 2, kept.payload_key)
        assert await store.publish(write("p"), wanted, releasing.KEY_ID)
        await store.begin(release_id, ONE, LEASE_S)
        await store.finish(ONE.payload_key, SEALED)
        await later(LEASE_S + 99)
        assert await store.take_strays(100, 10) == []
        await later(2)
        assert await store.take_strays(100, 10) == [ONE.payload_key]
        late = releasing.publication(release_id, 1, ONE.payload_key)
        assert await store.publish(write("late"), late, releasing.KEY_ID) is False
        # One that could not be deleted comes again, but not at once.
        assert await store.take_strays(100, 10) == []
        await later(101)
        assert await store.take_strays(100, 10) == [ONE.payload_key]
        await store.forget_stray(ONE.payload_key)
        await later(101)
        assert await store.take_strays(100, 10) == []

    async def test_a_bundle_is_spent_soon_after_its_publication(
        self, store, standing, release_id, later, write
    ):
        await standing.expect_bundle(release_id, 1_000_000)
        await later(10_000)
        assert await standing.spent_bundles(10) == []
        await store.begin(release_id, ONE, LEASE_S)
        wanted = releasing.publication(release_id, 1, ONE.payload_key)
        await store.publish(write("p"), wanted, releasing.KEY_ID)
        assert await standing.spent_bundles(10) == []
        await standing.forget_bundle(release_id)  # not yet
        await later(7_201)
        (spent,) = await standing.spent_bundles(10)
        assert (spent.release_id, spent.upload_key) == (release_id, "key-1")
        await standing.forget_bundle(release_id)
        assert await standing.spent_bundles(10) == []

    async def test_a_draft_that_is_given_up_is_spent_in_its_time(self, standing, release_id, later):
        await standing.expect_bundle(release_id, 1_000)
        await later(500)
        await standing.expect_bundle(release_id, 1_000)
        await later(999)
        assert await standing.spent_bundles(10) == []
        await later(2)
        assert [one.release_id for one in await standing.spent_bundles(10)] == [release_id]
