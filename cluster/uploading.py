"""Uploads a large bundle in parts, so that an interrupted upload goes on where it was, also days later.

The marketplace tells which parts have come, by the storage's digest of each. A part whose digest is that of
the local bytes is not sent again; every other is. What is sent carries its MD5, by which the storage
refuses what a bad line has altered. Whether the whole is what was signed is judged by SHA-256 when it is
published.
"""

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from cluster.bundles import Bundle
from cluster.client import ClientError, MarketplaceClient
from cluster.client_documents import UploadPart, UploadParts

TIMEOUT_S = 60.0  # between two pieces of a part
FAILURES_MAX = 5  # of one part in a row
PAUSE_S, PAUSE_MAX_S = 0.5, 8.0  # before the next try, doubled each time
PAGES_MAX = 100  # of 100 parts each: far more than a bundle has
HTTP_FORBIDDEN, HTTP_CLIENT_ERROR, HTTP_SERVER_ERROR = 403, 400, 500

OnBytes = Callable[[int, int], None]
"""Told ``(sent, total)`` bytes of the bundle, those of an earlier run included."""


def upload_in_parts(
    client: MarketplaceClient,
    release_id: str,
    bundle: Bundle,
    on_bytes: OnBytes = lambda _sent, _total: None,
    transport: httpx.BaseTransport | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Upload a bundle to a draft and complete it.

    Raises:
        ClientError: ``upload_failed``, run it again and it goes on; ApiError.
    """
    # A client of its own: the seller's token must never go to the storage's address.
    with httpx.Client(timeout=TIMEOUT_S, transport=transport) as http:
        upload = _Upload(client, http, release_id, bundle, on_bytes, pause)
        etags = upload.run()
    client.complete_upload(release_id, etags)


@dataclass(slots=True)
class _Upload:
    client: MarketplaceClient
    http: httpx.Client
    release_id: str
    bundle: Bundle
    on_bytes: OnBytes
    pause: Callable[[float], None]

    def run(self) -> dict[int, str]:
        """Send what is missing; returns each part's ETag by its number."""
        etags: dict[int, str] = {}
        first: int | None = 1
        for _ in range(PAGES_MAX):
            if first is None:
                return etags
            page = self._page(first)
            for part in page["parts"]:
                etags[part["number"]] = self._part(page, part)
                sent = (part["number"] - 1) * page["part_bytes"] + part["bytes"]
                self.on_bytes(sent, self.bundle.size)
            first = page["next_part"]
        raise ClientError("The upload's parts never end; tell the operator.", "upload_failed")

    def _page(self, first: int) -> UploadParts:
        return self.client.begin_upload(self.release_id, self.bundle.size, first)

    def _part(self, page: UploadParts, part: UploadPart) -> str:
        self.bundle.file.seek((part["number"] - 1) * page["part_bytes"])
        data = self.bundle.file.read(part["bytes"])
        digest = hashlib.md5(data, usedforsecurity=False)
        if part["etag"] == digest.hexdigest():
            return part["etag"]
        url, renewed = part["url"], False
        for failure in range(1, FAILURES_MAX + 1):
            try:
                response = self.http.put(
                    url, content=data, headers={"Content-MD5": base64.b64encode(digest.digest()).decode()}
                )
            except (httpx.TransportError, httpx.InvalidURL) as error:
                reason = str(error) or type(error).__name__
            else:
                if response.is_success and (etag := response.headers.get("ETag")):
                    return str(etag.strip('"'))
                reason = f"the storage answered {response.status_code}"
                if response.status_code == HTTP_FORBIDDEN and not renewed:
                    url, renewed = self._page(part["number"])["parts"][0]["url"], True
                    continue
                if HTTP_CLIENT_ERROR <= response.status_code < HTTP_SERVER_ERROR:
                    break
            self.pause(min(PAUSE_MAX_S, PAUSE_S * 2 ** (failure - 1)))
        raise ClientError(
            f"Part {part['number']} could not be uploaded: {reason}. The parts before it are kept: run the "
            "command again and it goes on.",
            "upload_failed",
        )
