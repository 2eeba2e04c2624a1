"""Why a proposal, an approval, a rejection or a withdrawal is refused: one code and one text each.

The same codes are raised by the decider here and by the functions of the database, which decides again under
its lock. ``REFUSALS`` is the whole list; docs/errors.md says what to do about each.
"""

from domain.errors import ConflictError, MarketplaceError, NotFoundError, RejectedError

EXPIRY_DAYS_MAX = 30  # a yes given longer ago was given to another world
EXPIRY_DAYS_DEFAULT = 7
OPEN_MAX = 20  # open at once: each is to be read by people, and every decision loads them all

REFUSALS: dict[str, tuple[type[MarketplaceError], str]] = {
    "proposal_kind_unknown": (
        RejectedError,
        "There is no such governed document. GET /v1/ops/governed lists their kinds.",
    ),
    "proposal_not_found": (NotFoundError, "There is no such proposal. GET /v1/ops/proposals lists them."),
    "governed_kind_not_found": (
        NotFoundError,
        "There is no such governed document, or no version of it yet. GET /v1/ops/governed lists them.",
    ),
    "operators_missing": (
        ConflictError,
        "There are no operators' keys yet. The database's owner runs `marketplace ops operators init` once.",
    ),
    "operators_exist": (
        ConflictError,
        "There are operators' keys. Change them by a proposal: `marketplace ops propose operators`.",
    ),
    "proposal_id_invalid": (
        RejectedError,
        "A proposal's id is prp_ and 26 characters; its proposer makes it.",
    ),
    "proposal_id_taken": (ConflictError, "There is a proposal of this id. Make a new id and sign again."),
    "proposal_expiry_invalid": (
        RejectedError,
        f"A proposal expires in the future, at most {EXPIRY_DAYS_MAX} days from now by the database's clock.",
    ),
    "proposal_document_unchanged": (RejectedError, "The document is what is current already."),
    "proposal_base_stale": (
        ConflictError,
        "The document has another version by now. Read it, look at the difference again and propose anew.",
    ),
    "proposals_full": (
        ConflictError,
        f"There are {OPEN_MAX} open proposals. Approve, reject or withdraw some first.",
    ),
    "proposal_envelope_invalid": (
        RejectedError,
        "The envelope is not a DSSE envelope of this action with exactly one signature that names its key.",
    ),
    "proposal_statement_mismatch": (
        RejectedError,
        "What was signed is not this proposal's statement, byte for byte.",
    ),
    "approval_key_unknown": (
        RejectedError,
        "The signing key is not among the operators' keys that are current now.",
    ),
    "approval_signature_invalid": (RejectedError, "The signature is not valid for the key that it names."),
    "approval_own_proposal": (
        RejectedError,
        "The proposer's own key does not count. Another operator must decide.",
    ),
    "approval_duplicate": (
        ConflictError,
        "This key has decided about the proposal already, once and for good.",
    ),
    "withdrawal_not_proposer": (RejectedError, "Only the key that proposed can withdraw."),
    "proposal_expired": (ConflictError, "The proposal has expired. Propose anew."),
    "proposal_stale": (
        ConflictError,
        "The proposal is stale: its document or the operators have changed since. Propose anew.",
    ),
    "proposal_withdrawn": (ConflictError, "The proposal was withdrawn."),
    "proposal_applied": (ConflictError, "The proposal has been applied already."),
    "proposal_rejected": (
        ConflictError,
        "The proposal was rejected by so many that it cannot be approved any more.",
    ),
}


def refusal(code: str) -> MarketplaceError:
    """Return the error of a code in ``REFUSALS``."""
    kind, text = REFUSALS[code]
    return kind(code, text)
