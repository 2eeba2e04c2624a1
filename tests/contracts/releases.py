"""What every store of releases' standing promises; run on the fake and on Postgres.

Subclasses provide ``catalogue`` and ``store`` over one database with a SKU of ``seller_1``, ``write(key)``,
and ``publish(number, version, channel)``, which publishes a release and returns its id.
"""

from datetime import timedelta

import pytest

from domain.errors import ConflictError, RejectedError
from storage.market.releases import BegunUpload
from tests.fakes.carts import NOW

KEY_ID = "key_1"


class ReleasesContract:
    async def test_heads_are_the_newest_published_of_each_channel(self, store, sku_id, publish, write):
        assert await store.heads(sku_id) == {}
        await publish(1, "1.0.0", "stable")
        second = await publish(2, "1.1.0", "stable")
        beta = await publish(3, "0.9.0", "beta")
        heads = await store.heads(sku_id)
        assert {channel: head.release_id for channel, head in heads.items()} == {
            "stable": second,
            "beta": beta,
        }
        await store.yank(write("y"), beta, "x", NOW)
        assert set(await store.heads(sku_id)) == {"stable"}

    async def test_versions_rise_within_a_channel_yanked_ones_counted(
        self, store, catalogue, sku_id, publish, write
    ):
        first = await publish(1, "1.0.0", "stable")
        await store.yank(write("y"), first, "x", NOW)
        with pytest.raises(ConflictError, match="version_not_newer"):
            await publish(2, "0.9.0", "stable")
        await publish(3, "0.8.0", "beta")
        await publish(4, "1.0.1", "stable")
        assert await catalogue.newest_version(sku_id, "stable") == "1.0.1"
        assert await catalogue.newest_version(sku_id, "nightly") is None

    async def test_the_newest_is_the_highest_whatever_the_replicas_clocks_say(
        self, store, catalogue, sku_id, publish
    ):
        """A release's number is also its minute here: the second is published by a clock that is behind."""
        for number, version in ((5, "1.0.0"), (1, "1.1.0"), (3, "1.2.0")):
            last = await publish(number, version, "stable")
        assert await catalogue.newest_version(sku_id, "stable") == "1.2.0"
        assert (await store.heads(sku_id))["stable"].release_id == last
        assert (await catalogue.find(sku_id)).latest_release.release_id == last
        with pytest.raises(ConflictError, match="version_not_newer"):
            await publish(9, "1.1.1", "stable")

    async def test_a_yank_is_once_and_keeps_its_reason(self, store, catalogue, publish, write):
        release_id = await publish(1, "1.0.0", "stable")
        assert await store.yank(write("a"), release_id, "first", NOW) is None
        assert (await store.yank(write("a"), release_id, "first", NOW)).subject == release_id
        assert await store.yank(write("b"), release_id, "second", NOW + timedelta(days=1)) is None
        release = await catalogue.release(release_id)
        assert (release.state, release.yank_reason, release.yanked_at) == ("yanked", "first", NOW)
        with pytest.raises(RejectedError, match="idempotency_key_reused"):
            await store.yank(write("a", b"another"), release_id, "third", NOW)

    async def test_a_keys_state_only_worsens(self, store, catalogue, write):
        await catalogue.register_seller_key(write("k"), KEY_ID, b"p" * 32, {})
        assert (await store.seller_key("seller_1", KEY_ID)).state == "active"
        assert await store.seller_key("seller_2", KEY_ID) is None
        assert await store.revoke_key(write("r"), KEY_ID, "retired", "rotated", NOW) is None
        assert await catalogue.seller_keys("seller_1") == {}
        assert await catalogue.revoked_keys("seller_1") == {KEY_ID: b"p" * 32}
        later = NOW + timedelta(days=1)
        await store.revoke_key(write("s"), KEY_ID, "compromised", "found", later)
        await store.revoke_key(write("t"), KEY_ID, "retired", "never mind", later)
        (key,) = await store.seller_keys("seller_1")
        assert (key.state, key.revoke_reason, key.revoked_at) == ("compromised", "found", NOW)

    async def test_of_two_uploads_the_first_counts(self, store, draft):
        release_id = await draft(1, "1.0.0", "stable")
        assert await store.upload(release_id) is None
        await store.begin_upload(release_id, BegunUpload("u1", 100))
        await store.begin_upload(release_id, BegunUpload("u2", 200))
        assert await store.upload(release_id) == BegunUpload("u1", 100)
        await store.forget_upload(release_id, "u2")
        assert await store.upload(release_id) == BegunUpload("u1", 100)
        await store.forget_upload(release_id, "u1")
        assert await store.upload(release_id) is None

    async def test_a_completed_upload_pins_the_draft(self, store, catalogue, draft):
        release_id = await draft(1, "1.0.0", "stable")
        await store.begin_upload(release_id, BegunUpload("u1", 100))
        await store.complete_upload(release_id, "u1", "v7")
        assert await store.upload(release_id) is None
        assert (await catalogue.release(release_id)).upload_version == "v7"

    async def test_uploads_are_abandoned_by_their_age(self, store, draft, later):
        release_id = await draft(1, "1.0.0", "stable")
        await store.begin_upload(release_id, BegunUpload("u1", 100))
        assert await store.abandoned_uploads(60, 10) == []
        await later(61)
        (one,) = await store.abandoned_uploads(60, 10)
        assert (one.release_id, one.upload_id, one.key) == (release_id, "u1", "key-1")
