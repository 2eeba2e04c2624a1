"""Why a transfer, a renewal, an activation or a proof is refused: one code and one text each.

The functions of the database (migrations 0014, 0016) raise the same codes, under their locks.
"""

from domain.errors import BusyError, ConflictError, MarketplaceError, NotFoundError, RejectedError
from domain.licence_policies import DAYS_MAX

TRANSFERS_A_DAY_MAX = 100  # offers of one buyer; migration 0016 holds the same
SERIAL_MAX = 50  # documents of one licence; each one before the last stands in every revocation list

REFUSALS: dict[str, tuple[type[MarketplaceError], str]] = {
    "licence_not_found": (NotFoundError, "You have no such licence."),
    "licence_not_active": (
        ConflictError,
        "The licence is suspended or revoked: its line was refunded or is disputed.",
    ),
    "licence_superseded": (
        ConflictError,
        "A newer document has taken this one's place: the licence was transferred or renewed. Use that one.",
    ),
    "licence_full": (
        ConflictError,
        f"A licence has at most {SERIAL_MAX} documents, and this one has them all.",
    ),
    "transfers_forbidden": (RejectedError, "The operators of this marketplace do not allow transfers."),
    "transfer_to_self": (RejectedError, "The licence is this buyer's already."),
    "transfer_open": (
        ConflictError,
        "The licence is offered to somebody. Withdraw that transfer, or wait until it has ended.",
    ),
    "transfers_many": (
        BusyError,
        f"A buyer offers at most {TRANSFERS_A_DAY_MAX} licences a day. Go on tomorrow.",
    ),
    "transfer_not_found": (NotFoundError, "There is no such transfer from you or to you."),
    "transfer_closed": (
        ConflictError,
        "The transfer was accepted, withdrawn or declined, or its time is over.",
    ),
    "renewal_not_timed": (RejectedError, "Only a licence with an end can be renewed, by one with an end."),
    "renewal_mismatch": (
        RejectedError,
        "A renewal is another licence of yours for the same product. These two are not.",
    ),
    "renewal_too_late": (
        ConflictError,
        "There is nothing to add: the licence ended before the new one began, or the new one's time is over.",
    ),
    "renewal_too_far": (ConflictError, f"A licence begins at most {DAYS_MAX} days ahead."),
    "renewal_done": (ConflictError, "This licence renews another one already."),
    "reissue_not_needed": (
        ConflictError,
        "The key that signed the licence is not compromised, so the licence holds as it is.",
    ),
    "activations_full": (
        ConflictError,
        "All seats of the licence are in use. Release one, or buy more.",
    ),
    "activation_ended": (
        ConflictError,
        "The activation was released, its lease ran out, or the licence has a new document. Activate again.",
    ),
    "owner_key_missing": (
        ConflictError,
        "The licence's owner has registered no key, so nothing can prove ownership. Register one first.",
    ),
}


def refusal(code: str) -> MarketplaceError:
    """Return the error of a code in ``REFUSALS``."""
    kind, detail = REFUSALS[code]
    return kind(code, detail)
