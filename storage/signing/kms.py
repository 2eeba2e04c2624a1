"""AWS KMS as a key service: an Ed25519 key that signs, and a symmetric key that wraps.

``ECC_NIST_EDWARDS25519`` with ``ED25519_SHA_512`` over RAW messages is plain Ed25519 (RFC 8032), of at most
4,096 bytes. Wrapping is ``Encrypt`` with the context as encryption context, so every use is in CloudTrail
with the ids that it was for. Credentials come from boto3's own chain (a role, an instance profile); none is
in our settings. Retries are ``storage.signing.guarded``'s, so botocore's are switched off.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from domain.errors import MarketplaceError
from domain.signing import PUBLIC_KEY_BYTES
from storage.signing.guarded import PARALLEL_MAX, TRY_TIMEOUT_S, Quota, refused, unavailable, unwrap_refused
from storage.signing.keys import SPKI_PREFIX

WRAP_TAG = b"\x02"
QUOTA = Quota(per_s=900.0, burst=900)  # AWS grants 1,000 Ed25519 requests a second per account and region
_KEY_SPEC = "ECC_NIST_EDWARDS25519"
_ALGORITHM = "ED25519_SHA_512"
_TRANSIENT = frozenset(
    {
        *("ThrottlingException", "Throttling", "TooManyRequestsException", "LimitExceededException"),
        *("KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException"),
        *("InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout"),
        *("500", "502", "503", "504"),
    }
)
_NOT_OURS = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class AwsKms:
    """``KeyService`` over one region's KMS. Key ids are ids, aliases or ARNs.

    botocore's timeouts are the client's, so ``timeout_s`` is not looked at: they are those of one try.
    """

    batch_max = 1
    wrap_tag = WRAP_TAG

    def __init__(
        self,
        signing_key: str,
        wrapping_key: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        client: Any = None,
    ) -> None:
        self.name = f"aws-kms:{signing_key}"
        self._signing_key = signing_key
        self._wrapping_key = wrapping_key
        self._client = client or boto3.client(
            "kms",
            region_name=region,
            endpoint_url=endpoint,
            config=Config(
                connect_timeout=TRY_TIMEOUT_S / 3,
                read_timeout=TRY_TIMEOUT_S,
                retries={"total_max_attempts": 1},
                max_pool_connections=2 * PARALLEL_MAX,
            ),
        )

    def public_key(self, _timeout_s: float) -> bytes:
        """Return the public key of an Ed25519 signing key; see ``KeyService``."""
        shown = self._call("get_public_key", KeyId=self._signing_key)
        der: bytes = shown["PublicKey"]
        if shown.get("KeySpec") != _KEY_SPEC or not der.startswith(SPKI_PREFIX):
            raise refused(self.name, f"its key is {shown.get('KeySpec')}, not {_KEY_SPEC}")
        key = der[len(SPKI_PREFIX) :]
        if len(key) != PUBLIC_KEY_BYTES:
            raise refused(self.name, "its public key is malformed")
        return key

    def sign(self, messages: Sequence[bytes], _timeout_s: float) -> list[bytes]:
        """Sign one message; see ``KeyService``."""
        return [
            self._call(
                "sign",
                KeyId=self._signing_key,
                Message=message,
                MessageType="RAW",
                SigningAlgorithm=_ALGORITHM,
            )["Signature"]
            for message in messages
        ]

    def wrap(self, plaintext: bytes, context: Mapping[str, str], _timeout_s: float) -> bytes:
        """Encrypt under the wrapping key; see ``KeyService``."""
        answer = self._call(
            "encrypt", KeyId=self._wrapping_key, Plaintext=plaintext, EncryptionContext=dict(context)
        )
        return WRAP_TAG + bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: Mapping[str, str], _timeout_s: float) -> bytes:
        """Decrypt with the wrapping key alone, whatever the blob names; see ``KeyService``."""
        if not wrapped.startswith(WRAP_TAG) or len(wrapped) == len(WRAP_TAG):
            raise unwrap_refused()
        answer = self._call(
            "decrypt",
            KeyId=self._wrapping_key,
            CiphertextBlob=wrapped[len(WRAP_TAG) :],
            EncryptionContext=dict(context),
        )
        return bytes(answer["Plaintext"])

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _call(self, operation: str, **parameters: Any) -> Any:
        try:
            return getattr(self._client, operation)(**parameters)
        except ClientError as error:
            raise self._translated(error) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise refused(self.name, str(error)) from None
        except BotoCoreError as error:  # no connection, or no answer in time
            raise unavailable(self.name, type(error).__name__) from None

    def _translated(self, error: ClientError) -> MarketplaceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _NOT_OURS:
            return unwrap_refused()
        if code in _TRANSIENT or status >= 500:  # noqa: PLR2004 - HTTP's own
            return unavailable(self.name, code or str(status))
        # AccessDenied, Disabled, NotFound, KMSInvalidState: time alone mends none of them.
        return refused(self.name, code or str(status))
