"""The signer's deployment as a plain class on a real Postgres: what it believes, tells and signs."""

from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest

from deployments import signer
from deployments.signer import SignerDeployment
from domain import key_lists
from domain.key_lists import EMPTY
from storage.market.signing_keys import OwnConnectionKeys, add_root
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.documents import licence

pytestmark = pytest.mark.integration
ROOT, NOT_ROOT = DevelopmentKeyFile(b"r" * 32, b"w" * 32), DevelopmentKeyFile(b"n" * 32, b"w" * 32)


@dataclass
class SomeSettings:
    """What of the settings the signer reads."""

    postgres_dsn: str
    signing_backends: tuple[str, ...]


async def test_a_forged_list_is_told_and_signing_goes_on(market_database, tmp_path, monkeypatch):
    monkeypatch.setattr(signer, "prepare_process", lambda _settings: None)
    monkeypatch.setattr(signer, "settle_process", lambda: None)
    keys = DevelopmentKeyFile.create(tmp_path / "dev.json")
    dsn = market_database.dsn_for("market_app")
    deployed = SignerDeployment(SomeSettings(dsn, (f"file:{tmp_path / 'dev.json'}",)))
    try:
        (record,) = OwnConnectionKeys(dsn).on_record().keys
        assert record.key_id == keys.key_id
        add_root(market_database.dsn, ROOT.public_key)
        thief = DevelopmentKeyFile(b"t" * 32, b"w" * 32)
        key = register(thief.public_key, datetime(2026, 1, 1, tzinfo=UTC))
        theirs = key_lists.activate(key_lists.add(EMPTY, key), key.key_id)
        forged = key_lists.sign(key_lists.reissue(theirs, datetime(2026, 1, 1, tzinfo=UTC)), NOT_ROOT)
        with psycopg.connect(dsn, autocommit=True) as stolen:
            stolen.execute(
                "INSERT INTO market.key_lists (version, follows, root_id, envelope, expires_at, published_by)"
                " VALUES (1, 0, %s, %s, now(), 'thief')",
                (ROOT.key_id, forged),
            )
        deployed._roster.refresh()
        assert await deployed.available()
        assert "marketplace_key_lists_passed_over 1.0" in (await deployed.exposition()).decode()
        assert keys.key_id in await deployed.sign_licensing(licence())
        await deployed.check_health()
    finally:
        deployed.__del__()
