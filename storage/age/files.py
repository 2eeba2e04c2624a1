"""Whole age files: the header followed by the payload, as buyers receive them.

Decides nothing about keys: the caller brings an identity or a file key. The plaintext is complete and
authentic only once ``decrypt`` has returned; see ``storage.age.payload`` for what callers must do before.
"""

from storage.age.header import HEADER_BYTES_MAX, parse_header, unwrap_file_key
from storage.age.payload import PayloadDigest, Reader, Writer, decrypt_payload, read_fully


class _Joined:
    """A reader that first gives bytes which were read too far, then the rest."""

    __slots__ = ("_ahead", "_reader")

    def __init__(self, ahead: bytes, reader: Reader) -> None:
        self._ahead = ahead
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._reader.read(size)


def decrypt(reader: Reader, identity: bytes, writer: Writer) -> PayloadDigest:
    """Decrypt an age file for a 32-byte identity in constant memory.

    Raises:
        HeaderError, NoMatchError, HeaderMacError: nothing was written.
        PayloadError: what was written is authentic and incomplete; throw it away.
    """
    start = read_fully(reader, HEADER_BYTES_MAX)
    header = parse_header(start)
    file_key = unwrap_file_key(header, identity)
    return decrypt_payload(file_key, _Joined(start[header.size :], reader), writer)
