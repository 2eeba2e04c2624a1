"""The documented page module in a real browser, on the documented vector and on a bundle of 10 MB."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from cluster.vectors import PATH, delivery_vector, plaintext
from tests.browser.chromium import PageError

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
VECTOR = json.loads((ROOT / PATH).read_text(encoding="utf-8"))
LARGE_BYTES = 10_000_000


@pytest.fixture(scope="module")
def page(browser, site):
    return browser.open(site.url)


@pytest.fixture(scope="module")
def report(page):
    return page.run(
        "const { report } = await import('/vector_report.mjs');"
        "return report(await import('/open-delivery.mjs'), vector);",
        vector=VECTOR,
    )


def test_the_vector_opens_in_pieces_of_any_size(report):
    assert [one.get("opened") for one in report["whole"]] == [VECTOR["plaintext"]["sha256"]] * 4


def test_every_spoiled_vector_is_refused(report):
    assert len(report["refused"]) == len(VECTOR["refused"])
    for one in report["refused"]:
        assert "refused" in one, one["what"]
        assert "opened" not in one, one["what"]


def test_the_browsers_own_x25519_and_ours_agree(report):
    assert report["same"] is True


def test_what_is_beside_the_signed_manifest_is_not_believed(report):
    assert report["unsigned"]["opened"] == VECTOR["plaintext"]["sha256"]


def served(site, vector, payload=None):
    """Serve the vector's payload; returns its opening, with a link to it."""
    name = f"/payload-{len(site.files)}"
    site.files[name] = (
        "application/octet-stream",
        base64.b64decode(vector["payload_base64"]) if payload is None else payload,
    )
    opening = vector["opening"]
    return opening | {"payload": opening["payload"] | {"url": name}, "file_name": name.strip("/")}


SAVE = "const { save } = await import('/page.mjs'); return save(opening, identity, [key]);"


def test_the_identity_is_kept_between_visits_and_opens_the_delivery(browser, site):
    page = browser.open(site.url)
    page.run("await (await import('/page.mjs')).keep(identity);", identity=VECTOR["identity"])
    page = browser.open(site.url)
    saved = page.run(
        "const { kept, save } = await import('/page.mjs'); return save(opening, await kept(), [key]);",
        opening=served(site, VECTOR),
        key=VECTOR["platform_public_key"],
    )
    assert saved["sha256"] == VECTOR["plaintext"]["sha256"]


def test_a_browser_whose_streams_are_not_iterable_opens_it_too(page, site):
    saved = page.run(
        "const { save } = await import('/page.mjs');"
        "return save(opening, identity, [key], (body) => ({ getReader: () => body.getReader() }));",
        opening=served(site, VECTOR),
        identity=VECTOR["identity"],
        key=VECTOR["platform_public_key"],
    )
    assert saved["sha256"] == VECTOR["plaintext"]["sha256"]


def test_nothing_of_a_spoiled_payload_is_saved(page, site):
    payload = bytearray(base64.b64decode(VECTOR["payload_base64"]))
    payload[-1] ^= 1  # the last tag: everything before it is authentic
    opening = served(site, VECTOR, bytes(payload))
    with pytest.raises(PageError, match="the payload was altered or cut"):
        page.run(SAVE, opening=opening, identity=VECTOR["identity"], key=VECTOR["platform_public_key"])
    size = page.run("return (await import('/page.mjs')).savedSize(name);", name=opening["file_name"])
    assert size == 0


def test_ten_megabytes_open(page, site, record_testsuite_property):
    vector = delivery_vector(LARGE_BYTES)
    saved = page.run(
        SAVE,
        opening=served(site, vector),
        identity=vector["identity"],
        key=vector["platform_public_key"],
    )
    assert saved["sha256"] == hashlib.sha256(plaintext(LARGE_BYTES)).hexdigest()
    record_testsuite_property("ten_megabytes_s", saved["seconds"])
