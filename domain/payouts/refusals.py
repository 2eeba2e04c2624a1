"""Why something about payouts is refused: one code and one text each; docs/errors.md says what to do."""

from domain.errors import ConflictError, MarketplaceError, NotFoundError, RejectedError

REFUSALS: dict[str, tuple[type[MarketplaceError], str]] = {
    "payee_not_found": (NotFoundError, "No payee of this id has an account here."),
    "payee_id_invalid": (RejectedError, "A payee's id is 1 to 100 letters, digits and underscores."),
    "payee_account_unknown": (
        RejectedError,
        "Stripe knows no such connected account of this platform. Its id begins with acct_.",
    ),
    "payout_period_invalid": (
        RejectedError,
        "A period is a month like 2026-10, or an ISO week like 2026-W43, as the marketplace is set up.",
    ),
    "payout_period_open": (ConflictError, "The period is not over, in UTC. Draft its payouts afterwards."),
    "payout_batch_exists": (
        ConflictError,
        "The period has a batch in this currency. Withdraw it first if it is only drafted.",
    ),
    "payout_nothing_due": (ConflictError, "No payee has a balance in this currency. Nothing was drafted."),
    "payout_batch_too_large": (
        ConflictError,
        "More payees have balances than one batch takes. Nothing was drafted; tell the maintainers.",
    ),
    "payout_batch_not_found": (NotFoundError, "There is no such batch. GET /v1/ops/payouts lists them."),
    "payout_batch_approved": (ConflictError, "The batch is approved; its payouts are on their way."),
    "payout_batch_withdrawn": (ConflictError, "The batch was withdrawn. Draft the period anew."),
    "payout_batch_drafted": (ConflictError, "The batch is not approved yet; nothing of it can be run."),
    "payout_own_batch": (
        RejectedError,
        "Whoever drafted the batch cannot approve it. Another operator must.",
    ),
    "payout_not_found": (NotFoundError, "There is no such payout. GET /v1/payouts lists them."),
    "payout_statement_too_large": (
        RejectedError,
        "The period has more movements than one statement takes. Ask an operator for Finance's own.",
    ),
}


def refusal(code: str) -> MarketplaceError:
    """Return the error of a code in ``REFUSALS``."""
    kind, text = REFUSALS[code]
    return kind(code, text)
