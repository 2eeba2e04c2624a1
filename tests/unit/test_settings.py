"""The settings document: what it may leave out, and what it may not say."""

import pytest

from deployments.settings import TaxSettings, parse_settings

RAW = {
    "postgres_dsn": "postgresql://market_app@db/market",
    "s3": {
        "endpoint": "http://s3",
        "access_key": "a",
        "secret_key": "s",
        "region": "r",
        "buckets": {"uploads": "u", "payloads": "p", "audit": "a"},
    },
    "stripe": {
        "api_base": "http://stripe",
        "secret_key": "sk",
        "publishable_key": "pk",
        "webhook_secrets": ["whsec"],
    },
    "finance": {"url": "http://finance", "token": "t"},
    "http": {"host": "127.0.0.1", "port": 8000, "base_url": "http://market"},
    "signing": {"backends": ["file:key.json"]},
    "ray": {"address": "auto", "namespace": "market"},
    "tokens": [],
}


def test_tax_is_by_the_table_unless_told_otherwise():
    assert parse_settings(RAW).tax == TaxSettings("table", "exclusive")
    chosen = {"provider": "stripe", "behaviour": "inclusive"}
    assert parse_settings({**RAW, "tax": chosen}).tax == TaxSettings("stripe", "inclusive")


@pytest.mark.parametrize(
    "tax", [{"provider": "guess"}, {"behaviour": "sometimes"}, {"provider": "stripe", "mode": "live"}]
)
def test_a_way_of_taxing_that_there_is_not_is_refused(tax):
    with pytest.raises(ValueError, match="tax is a provider"):
        parse_settings({**RAW, "tax": tax})
