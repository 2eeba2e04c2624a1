"""Bracketed forms and declared parameters of the Stripe simulator."""

import pytest

from cluster.local.stripe import checkout_sessions, payment_intents
from cluster.local.stripe.forms import BODY_BYTES_MAX, FIELDS_MAX, parse_pairs, to_tree
from cluster.local.stripe.parameters import (
    EXPAND,
    PAGE,
    boolean,
    created_filter,
    merged_metadata,
    metadata,
    read,
    texts,
    web_url,
)
from cluster.local.stripe.refusals import RefusedError


def tree(encoded: str):
    return to_tree(parse_pairs(encoded.encode()))


def test_brackets_nest_and_decode():
    assert tree("a=1&metadata[order_id]=o%20%C3%A9&line_items[0][price_data][currency]=usd&empty=") == {
        "a": "1",
        "metadata": {"order_id": "o é"},
        "line_items": {"0": {"price_data": {"currency": "usd"}}},
        "empty": "",
    }


def test_lists_with_and_without_indexes():
    assert texts(tree("expand[]=a&expand[]=b")["expand"], "expand") == ["a", "b"]
    assert texts(tree("expand[10]=z&expand[2]=a")["expand"], "expand") == ["a", "z"]


@pytest.mark.parametrize(
    "encoded",
    [
        "a[b=1",
        "[a]=1",
        "a=1&a[b]=1",
        "a[b]=1&a=1",
        "a[b][c]=1&a[b]=2",
        "a[1][2][3][4][5][6]=1",
        f"a[{'x' * 300}]=1",
        "a=%FF",
        "&".join(["a=1"] * (FIELDS_MAX + 1)),
    ],
)
def test_malformed_forms_are_refused(encoded):
    with pytest.raises(RefusedError) as refused:
        tree(encoded)
    assert refused.value.status == 400
    assert not refused.value.executed


def test_too_large_a_body_is_refused():
    with pytest.raises(RefusedError) as refused:
        parse_pairs(b"a=" + b"x" * BODY_BYTES_MAX)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("encoded", "param", "code"),
    [
        ("amount=1&currency=usd&colour=red", "colour", "parameter_unknown"),
        (
            "amount=1&currency=usd&automatic_payment_methods[on]=true",
            "automatic_payment_methods[on]",
            "parameter_unknown",
        ),
        ("currency=usd", "amount", "parameter_missing"),
        ("amount=1&currency=", "currency", None),
        ("amount=1&currency=xyz", "currency", None),
        ("amount=0&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=-5&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=1.5&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=%D9%A1&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=100000000&currency=usd", "amount", "amount_too_large"),
        ("amount=1&currency=usd&capture_method=later", "capture_method", None),
        ("amount=1&currency=usd&confirm=yes", "confirm", None),
        ("amount=1&currency=usd&metadata=x", "metadata", None),
        ("amount=1&currency=usd&metadata[a][b]=x", "metadata", None),
    ],
)
def test_parameters_are_refused_by_name(encoded, param, code):
    with pytest.raises(RefusedError) as refused:
        read(tree(encoded), payment_intents.CREATE, ("amount", "currency"))
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)


def test_a_refusal_never_repeats_a_value():
    with pytest.raises(RefusedError) as refused:
        read(tree("amount=4000000000000002&currency=usd"), payment_intents.CREATE)
    assert b"4000000000000002" not in refused.value.body()


def test_unknown_parameters_are_found_inside_lists():
    encoded = (
        "line_items[0][price_data][currency]=usd&line_items[0][price_data][unit_amount]=1"
        "&line_items[0][price_data][product_data][name]=a&line_items[1][price_data][tax]=1"
    )
    with pytest.raises(RefusedError) as refused:
        read(tree(encoded), checkout_sessions.CREATE)
    assert refused.value.param == "line_items[1][price_data][tax]"


def test_metadata_limits():
    assert metadata("", "metadata") == {}
    assert metadata({"k" * 40: "v" * 500}, "metadata") == {"k" * 40: "v" * 500}
    for wrong in ({"k" * 41: "v"}, {"k": "v" * 501}, {str(i): "v" for i in range(51)}):
        with pytest.raises(RefusedError):
            metadata(wrong, "metadata")


def test_metadata_merges_and_unsets():
    assert merged_metadata({"a": "1", "b": "2"}, {"b": "", "c": "3"}) == {"a": "1", "c": "3"}
    assert merged_metadata({"a": "1"}, {}) == {}
    with pytest.raises(RefusedError):
        merged_metadata({str(i): "v" for i in range(50)}, {"one more": "v"})


def test_created_takes_a_time_or_bounds():
    assert created_filter("5", "created") == {"gte": 5, "lte": 5}
    assert created_filter({"gt": "5", "lte": "9"}, "created") == {"gt": 5, "lte": 9}
    with pytest.raises(RefusedError):
        created_filter({"about": "5"}, "created")


def test_limits_of_pages():
    assert read(tree("limit=100&expand[]=data.x"), PAGE) == {"limit": 100, "expand": ["data.x"]}
    for limit in ("0", "101", "ten"):
        with pytest.raises(RefusedError):
            read(tree(f"limit={limit}"), PAGE)


def test_booleans_are_words():
    assert boolean("true", "p")
    assert not boolean("false", "p")
    with pytest.raises(RefusedError):
        boolean("1", "p")


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "/relative",
        "https://",
        "https://user:password@shop.test/",
        "https://shop.test;script-src *",
        "https://shop.test\n.evil.test/",
        "https://shop.test/a b",
        "https://shop.test:99999/",
        "data:text/html,x",
    ],
)
def test_addresses_that_must_not_become_links(address):
    with pytest.raises(RefusedError) as refused:
        web_url(address, "success_url")
    assert refused.value.code == "url_invalid"


def test_addresses_that_may():
    for address in (
        "http://127.0.0.1:8000/v1?x={CHECKOUT_SESSION_ID}#done",
        "https://shop.test",
        "http://[::1]:80/",
    ):
        assert web_url(address, "success_url") == address


def test_expand_is_taken_everywhere():
    assert read(tree("expand[]=latest_charge"), EXPAND) == {"expand": ["latest_charge"]}
