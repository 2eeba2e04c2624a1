import json

import pytest

from cluster.client import ClientError
from cluster.connection import STRIPE_API, resolve
from cluster.local.layout import Layout

LOCAL = {
    "base_url": "http://127.0.0.1:8000",
    "tokens": {"buyer": "local-buyer", "seller": "local-seller"},
    "stripe": {"api_base": "http://127.0.0.1:9000"},
}


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "local.json").write_text(json.dumps(LOCAL))
    return Layout(tmp_path)


def find(layout, role="buyer", environ=None, url=None, token_file=None):
    return resolve(role, url=url, token_file=token_file, environ=environ or {}, layout=layout)


def test_a_marketplace_on_this_machine_needs_nothing(layout):
    found = find(layout, "seller")
    assert (found.base_url, found.token) == ("http://127.0.0.1:8000", "local-seller")
    assert found.stripe_api == "http://127.0.0.1:9000"


def test_local_tokens_never_go_to_another_address(layout):
    for found in (
        find(layout, url="http://market.example"),
        find(layout, environ={"MARKETPLACE_URL": "http://127.0.0.1:8001"}),
    ):
        assert found.token is None
        assert found.stripe_api == STRIPE_API
        with pytest.raises(ClientError, match="MARKETPLACE_TOKEN"):
            found.require_token("buyer")


def test_options_win_over_the_environment_and_that_over_the_file(layout, tmp_path):
    path = tmp_path / "token"
    path.write_text("from-file\n")
    environ = {"MARKETPLACE_URL": "http://env", "MARKETPLACE_TOKEN": "from-env"}
    assert find(layout, environ=environ).token == "from-env"
    found = find(layout, environ=environ, url="http://option", token_file=path)
    assert (found.base_url, found.token) == ("http://option", "from-file")


def test_a_token_is_not_shown_by_accident(layout):
    assert "local-buyer" not in repr(find(layout))


@pytest.mark.parametrize("text", ["", "two tokens", "x" * 600, "naïve"])
def test_a_file_that_holds_no_token_is_refused(layout, tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClientError) as caught:
        find(layout, token_file=path)
    assert caught.value.code == "token_unreadable"


def test_nowhere_says_what_to_do(tmp_path):
    with pytest.raises(ClientError, match="make up"):
        find(Layout(tmp_path))
    with pytest.raises(ClientError, match="http"):
        find(Layout(tmp_path), url="ftp://x")
