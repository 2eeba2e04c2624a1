"""A page fetches a payload by its link from a real object storage: another origin, so the bucket decides."""

import base64
import json
from pathlib import Path

import pytest

from cluster.local import seaweed
from cluster.vectors import PATH
from tests.browser.chromium import PageError
from tests.integration.seaweed_server import SECRETS, running

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.timeout(120)]

VECTOR = json.loads((Path(__file__).resolve().parents[2] / PATH).read_text(encoding="utf-8"))
PAYLOAD = base64.b64decode(VECTOR["payload_base64"])
SAVE = "const { save } = await import('/page.mjs'); return save(opening, identity, [key]);"
RANGE = """
const whole = await fetch(link), tag = whole.headers.get("ETag");
const part = await fetch(link, { headers: { Range: "bytes=16-31", "If-Match": tag } });
return [part.status, part.headers.get("Content-Range"), (await part.arrayBuffer()).byteLength];
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weed")
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def link(storage):
    bucket = storage.bucket("payloads")
    with bucket.writer("vector") as writer:
        writer.write(memoryview(PAYLOAD))
        stored = writer.finish()
    yield bucket.link_to_get(stored.key, stored.version_id, 600).url
    bucket.close()


@pytest.fixture
def page(browser, site):
    return browser.open(site.url)


def test_a_delivery_is_fetched_from_the_storage_and_opened(page, link):
    opening = VECTOR["opening"] | {"payload": VECTOR["opening"]["payload"] | {"url": link}}
    saved = page.run(SAVE, opening=opening, identity=VECTOR["identity"], key=VECTOR["platform_public_key"])
    assert saved["sha256"] == VECTOR["plaintext"]["sha256"]


def test_a_range_of_the_version_may_be_asked_for(page, link):
    """For these headers the browser asks the storage first, and reads the answer's only if it may."""
    assert page.run(RANGE, link=link) == [206, f"bytes 16-31/{len(PAYLOAD)}", 16]


def test_a_page_may_write_nothing(page, link):
    with pytest.raises(PageError, match="Failed to fetch"):
        page.run("return (await fetch(link, { method: 'PUT', body: 'x' })).status;", link=link)


def test_without_the_documented_rule_a_page_reads_nothing(page, link, storage):
    client = seaweed.client(storage.ports, SECRETS)
    client.delete_bucket_cors(Bucket="payloads")
    try:
        with pytest.raises(PageError, match="Failed to fetch"):
            page.run("return (await fetch(link, { cache: 'no-store' })).status;", link=link)
    finally:
        seaweed.make_buckets(client)
    assert page.run("return (await fetch(link, { cache: 'no-store' })).status;", link=link) == 200
