"""S3 by boto3: presigned links, bounded reads and writes; everything names the version it means.

Object lock protects versions and not keys, so a version is recorded when it is written and pinned in
every link and read. Presigning is local arithmetic; network calls run in a bounded pool of threads.
Refused: lifetimes outside 1..3600 s (boto3 signs nonsense silently), links without a version, and
uploads whose version the server does not tell (a bucket without versioning).
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from domain.errors import BusyError, DependencyError

LINK_LIFETIME_S_MAX = 3_600  # a link is a bearer secret; a longer download can ask for a new one
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0  # per read, not per object
ATTEMPTS_MAX = 3
THREADS_MAX = 4  # publications and probes only: buyers fetch from S3 directly
CALLS_WAITING_MAX = 64  # beyond this callers hear 503 instead of joining an endless queue
PART_BYTES = 16 * 2**20  # S3 allows 10,000 parts of at least 5 MiB: 160 GB, far above a bundle's bound
JOIN_HEAD_BYTES = 8 * 2**20  # the first of several parts has at least 5 MiB
COPY_PART_BYTES = 256 * 2**20  # S3 copies up to 5 GiB in one call; this ends within the time for an answer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Access:
    """Where S3 answers and as whom; ``endpoint`` is what links start with."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A presigned URL, a bearer secret until ``expires_at`` (UTC)."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object; ``size`` in bytes."""

    key: str
    version_id: str
    size: int


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part of an upload that has come; ``etag`` is the server's digest of it, most often MD5."""

    number: int
    size: int
    etag: str


class Readable(Protocol):
    """An object's body as a stream."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, empty only at the end."""

    def close(self) -> None:
        """Give the connection back."""


class Bucket:
    """One bucket. The plain methods block and are for threads; ``call`` runs them there."""

    def __init__(self, access: S3Access, name: str, clock: Callable[[], datetime]) -> None:
        self.name = name
        self._clock = clock
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=access.region,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
                max_pool_connections=THREADS_MAX,
                s3={"addressing_style": "path"},
                # Checksums are asked for where we write; in a presigned PUT they would bind the
                # uploader to boto3's own header.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"s3-{name}")
        self._calls = 0

    async def call(self, work: Callable[[], T]) -> T:
        """Run blocking ``work`` in this bucket's threads. Cancelling the waiter does not stop the work.

        Raises:
            BusyError: ``storage_busy``.
            DependencyError: ``storage_unavailable``.
        """
        if self._calls >= CALLS_WAITING_MAX:
            raise BusyError("storage_busy", "Too many requests wait for object storage. Try again shortly.")
        self._calls += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._ended)
        try:
            return await future
        except (BotoCoreError, ClientError) as error:
            raise DependencyError(
                "storage_unavailable",
                "Object storage did not do its part; nothing is lost. Try again shortly.",
                2,
            ) from error

    def _ended(self, _: object) -> None:
        self._calls -= 1

    def close(self) -> None:
        """Let running calls end and take no new ones."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        """Presign a GET of exactly one version."""
        if not version_id:
            raise ValueError("a link is pinned to a version")
        return self._link(
            "get_object", {"Bucket": self.name, "Key": key, "VersionId": version_id}, lifetime_s
        )

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        """Presign a PUT; each use makes a new version, of which publication pins one."""
        return self._link("put_object", {"Bucket": self.name, "Key": key}, lifetime_s)

    def begin_upload(self, key: str) -> str:
        """Begin an upload in parts; returns its id. Blocks."""
        return str(self._client.create_multipart_upload(Bucket=self.name, Key=key)["UploadId"])

    def link_to_put_part(self, key: str, upload_id: str, number: int, lifetime_s: int) -> Link:
        """Presign a PUT of one part; numbers begin at 1."""
        parameters = {"Bucket": self.name, "Key": key, "UploadId": upload_id, "PartNumber": number}
        return self._link("upload_part", parameters, lifetime_s)

    def uploaded_parts(self, key: str, upload_id: str) -> list[UploadedPart] | None:
        """List the parts that have come, at most 1,000; None when there is no such upload. Blocks."""
        try:
            answer = self._client.list_parts(Bucket=self.name, Key=key, UploadId=upload_id, MaxParts=1_000)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:  # noqa: PLR2004 - HTTP's number
                return None
            raise
        return [
            UploadedPart(int(part["PartNumber"]), int(part["Size"]), part["ETag"].strip('"'))
            for part in answer.get("Parts", ())
        ]

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[UploadedPart]) -> StoredObject:
        """Make one object of exactly these parts; the server refuses others than it has. Blocks."""
        answer = self._client.complete_multipart_upload(
            Bucket=self.name,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": [{"PartNumber": one.number, "ETag": one.etag} for one in parts]},
        )
        return StoredObject(key, _version_of(answer), sum(one.size for one in parts))

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload with its parts; one that is gone already is no failure. Blocks."""
        try:
            self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:  # noqa: PLR2004 - HTTP's number
                raise

    def unfinished_uploads(self, before: datetime, limit: int) -> list[tuple[str, str]]:
        """List keys and ids of uploads in parts that were begun before a time and never completed. Blocks."""
        answer = self._client.list_multipart_uploads(Bucket=self.name, MaxUploads=limit)
        return [
            (one["Key"], one["UploadId"]) for one in answer.get("Uploads", ()) if one["Initiated"] < before
        ]

    def newest(self, key: str) -> StoredObject | None:
        """Return the newest version of ``key``, or None. Blocks."""
        try:
            head = self._client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:  # noqa: PLR2004 - HTTP's number
                return None
            raise
        return StoredObject(key, _version_of(head), int(head["ContentLength"]))

    def open(self, stored: StoredObject) -> Readable:
        """Open one version for reading. Blocks."""
        body: Readable = self._client.get_object(
            Bucket=self.name, Key=stored.key, VersionId=stored.version_id
        )["Body"]
        return body

    def writer(self, key: str) -> "PartedUpload":
        """Return a writer for a new version of ``key`` in constant memory."""
        return PartedUpload(self._client, self.name, key)

    def join(self, key: str, head: bytes, source: "Bucket", body: StoredObject) -> StoredObject:
        """Write ``head``, then a version of an object in ``source``, as a new version of ``key``. Blocks.

        Only ``JOIN_HEAD_BYTES`` pass through this process; the rest is copied by the server.
        """
        with source.opened(body) as stream:
            first = head + _read_up_to(stream, JOIN_HEAD_BYTES)
        done = len(first) - len(head)
        target = {"Bucket": self.name, "Key": key}
        if done == body.size:
            answer = self._client.put_object(**target, Body=first, ChecksumAlgorithm="SHA256")
            return StoredObject(key, _version_of(answer), len(first))
        upload_id = self._client.create_multipart_upload(**target)["UploadId"]
        upload = {**target, "UploadId": upload_id}
        try:
            answer = self._client.upload_part(**upload, PartNumber=1, Body=first)
            parts = [{"PartNumber": 1, "ETag": answer["ETag"]}]
            for start in range(done, body.size, COPY_PART_BYTES):
                end = min(start + COPY_PART_BYTES, body.size)
                copied = self._client.upload_part_copy(
                    **upload,
                    PartNumber=len(parts) + 1,
                    CopySource={"Bucket": source.name, "Key": body.key, "VersionId": body.version_id},
                    CopySourceRange=f"bytes={start}-{end - 1}",
                )
                parts.append({"PartNumber": len(parts) + 1, "ETag": copied["CopyPartResult"]["ETag"]})
            answer = self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise
        version_id = _version_of(answer)
        made = self._client.head_object(**target, VersionId=version_id)
        return StoredObject(key, version_id, int(made["ContentLength"]))

    @contextmanager
    def opened(self, stored: StoredObject) -> Iterator[Readable]:
        """Open one version for a block. Blocks."""
        body = self.open(stored)
        try:
            yield body
        finally:
            body.close()

    def erase(self, key: str) -> None:
        """Delete every version of a key and every upload to it that was not completed. Blocks."""
        for one in self._client.list_multipart_uploads(Bucket=self.name, Prefix=key).get("Uploads", ()):
            if one["Key"] == key:
                self.abort_upload(key, one["UploadId"])
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=key)
        for page in pages:
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if one["Key"] == key:
                    self._client.delete_object(Bucket=self.name, Key=key, VersionId=one["VersionId"])

    def reachable(self) -> bool:
        """Whether the bucket answers. Blocks."""
        try:
            self._client.head_bucket(Bucket=self.name)
        except (BotoCoreError, ClientError):
            return False
        return True

    def _link(self, operation: str, parameters: Mapping[str, Any], lifetime_s: int) -> Link:
        if not 1 <= lifetime_s <= LINK_LIFETIME_S_MAX:
            raise ValueError(f"a link lives 1 to {LINK_LIFETIME_S_MAX} s, not {lifetime_s}")
        # Rounded down: a caller who uses it until then is never refused for a fraction of a second.
        expires_at = self._clock().replace(microsecond=0) + timedelta(seconds=lifetime_s)
        url: str = self._client.generate_presigned_url(operation, Params=parameters, ExpiresIn=lifetime_s)
        return Link(url, expires_at)


class PartedUpload:
    """Writes one object part by part; as a context manager it leaves nothing behind on failure.

    A single part goes as a plain PUT. ``finish`` returns the version that was written. Blocks.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._target = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._size = 0
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upload_id is not None and not self._finished:
            self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)

    def write(self, data: memoryview, /) -> int:
        """Take all of ``data``; sends a part whenever one is full."""
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) >= 2 * PART_BYTES:  # the last part must not be left empty
            self._send_part(PART_BYTES)
        return len(data)

    def finish(self) -> StoredObject:
        """Complete the object.

        Raises:
            ClientError, BotoCoreError: the object does not exist then, or its version is not known.
        """
        key = self._target["Key"]
        if self._upload_id is None:
            answer = self._client.put_object(
                **self._target, Body=bytes(self._buffer), ChecksumAlgorithm="SHA256"
            )
        else:
            self._send_part(len(self._buffer))
            answer = self._client.complete_multipart_upload(
                **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
            )
        self._finished = True
        return StoredObject(key, _version_of(answer), self._size)

    def _send_part(self, size: int) -> None:
        if self._upload_id is None:
            created = self._client.create_multipart_upload(**self._target, ChecksumAlgorithm="SHA256")
            self._upload_id = created["UploadId"]
        number = len(self._parts) + 1
        body = bytes(memoryview(self._buffer)[:size])  # one copy, where a slice of a bytearray is another
        answer = self._client.upload_part(
            **self._target,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=body,
            ChecksumAlgorithm="SHA256",
        )
        del self._buffer[:size]
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumSHA256" in answer:
            part["ChecksumSHA256"] = answer["ChecksumSHA256"]
        self._parts.append(part)


def _read_up_to(stream: Readable, size: int) -> bytes:
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _version_of(answer: Any) -> str:
    version_id = answer.get("VersionId")
    if not version_id or version_id == "null":
        raise DependencyError(
            "storage_unversioned", "The bucket keeps no versions. Ask the operators to switch versioning on."
        )
    return str(version_id)
