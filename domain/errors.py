"""Errors by fault: whose mistake it was decides who must act.

    MarketplaceError(code, detail)
    ├── RejectedError        the request is wrong or not allowed; trying again unchanged cannot help
    ├── NotFoundError        no such thing, or not yours (the two are deliberately not told apart)
    ├── ConflictError        right request, wrong moment: the state has moved on
    ├── BusyError            we are full; try again after ``retry_after_s``
    └── DependencyError      a part that we rely on failed; the work is kept and tried again

``code`` is stable and documented in docs/errors.md; HTTP statuses live in one table in ``serve_app``.
All arguments are positional and forwarded, because errors that cross Ray are pickled by ``args``.
"""


class MarketplaceError(Exception):
    """Base of all expected errors. ``code`` is for programs, ``detail`` for people."""

    def __init__(self, code: str, detail: str, *context: object) -> None:
        super().__init__(code, detail, *context)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class RejectedError(MarketplaceError):
    """The request is wrong or not allowed."""


class NotFoundError(MarketplaceError):
    """No such thing, or not the caller's."""


class ConflictError(MarketplaceError):
    """The state has moved on, or an equal request is in progress."""


class BusyError(MarketplaceError):
    """A bound was reached; nothing was accepted."""

    def __init__(self, code: str, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(code, detail, retry_after_s)
        self.retry_after_s = retry_after_s


class DependencyError(MarketplaceError):
    """Stripe, Finance, the signer, S3 or Postgres did not do its part in time."""

    def __init__(self, code: str, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(code, detail, retry_after_s)
        self.retry_after_s = retry_after_s
