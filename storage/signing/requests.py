"""HTTP requests to key services: an answer that is short, whole, and there in time, or none.

A timeout of the HTTP client bounds each wait for bytes; a service that sends a byte a second would never meet
it. So the whole answer has a deadline here, and a size.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx

ANSWER_BYTES_MAX = 1_048_576  # 250 signatures take 40 KB


def request(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Ask with a JSON body (None: without one) and return the answer, which has been read.

    Raises:
        httpx.HTTPError: no connection, or no whole answer in time.
        ValueError: the answer is longer than any that we ask for.
    """
    ends_s = time.monotonic() + timeout_s
    sent = {**(headers or {}), "Accept-Encoding": "identity"}
    with client.stream(method, path, json=body, headers=sent, timeout=timeout_s) as answer:
        data = bytearray()
        for chunk in answer.iter_raw():
            data += chunk
            if len(data) > ANSWER_BYTES_MAX:
                raise ValueError(f"an answer has at most {ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > ends_s:
                raise httpx.ReadTimeout("the answer is too slow", request=answer.request)
        return httpx.Response(answer.status_code, content=bytes(data))
