"""Records the platform's public signing keys, before anything is signed with them."""

import psycopg

from domain.signing import KeyRecord
from storage.market.pool import CONNECT_TIMEOUT_S

_REGISTER = """
INSERT INTO market.signing_keys (key_id, public_key, state, not_before)
VALUES (%(key_id)s, %(public_key)s, %(state)s, %(not_before)s)
ON CONFLICT (key_id) DO NOTHING
"""


def register_signing_key(dsn: str, record: KeyRecord) -> None:
    """Record a public key once; a key that is known keeps its state and its first date.

    Raises:
        psycopg.Error: when the database is unreachable.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute(
            _REGISTER,
            {
                "key_id": record.key_id,
                "public_key": record.public_key,
                "state": record.state.value,
                "not_before": record.not_before,
            },
        )
