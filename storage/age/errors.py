"""Errors of the age format, by which part was wrong (the words of the C2SP test vectors).

AgeError(code, detail)
├── RecipientError    a recipient or identity text is malformed or unsafe
├── HeaderError       the header breaks the grammar, or a stanza is malformed
├── NoMatchError      well-formed, and not for this identity
├── HeaderMacError    the file key opened, and the header was altered
└── PayloadError      the payload was altered, cut or extended
"""

from domain.errors import RejectedError


class AgeError(RejectedError):
    """An age file or key is refused."""


class RecipientError(AgeError):
    """A recipient or identity text is malformed or unsafe."""


class HeaderError(AgeError):
    """The header breaks the grammar."""


class NoMatchError(AgeError):
    """No stanza of the header opens with this identity."""


class HeaderMacError(AgeError):
    """The header's MAC does not match: it was altered."""


class PayloadError(AgeError):
    """The payload was altered, cut, reordered or extended."""
