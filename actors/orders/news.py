"""News of Stripe as commands: which command each kind of verified webhook becomes.

Decides nothing about orders. Kinds that are not listed here never get this far: ``serve_app.routes.webhooks``
takes in only what it knows.
"""

from datetime import UTC, datetime

from domain.orders import commands as c
from domain.orders.ports import CHECKOUT_NEWS, DISPUTE_NEWS, REFUND_NEWS, PaymentNews


def command_of(news: PaymentNews, at: datetime) -> c.Command:
    """Return the command that ``news`` asks of its order."""
    match news.kind:
        case "payment_intent.succeeded":
            return c.ConfirmPayment(
                news.payment_intent_id, news.event_id, news.amount_minor, news.currency, at
            )
        case "payment_intent.amount_capturable_updated":
            return c.NoticeAuthorisation(
                news.payment_intent_id, news.event_id, news.amount_minor, news.currency, at
            )
        case "payment_intent.requires_action":
            return c.NoticeActionRequired(news.event_id, news.code, at)
        case "payment_intent.canceled":
            return c.NoticePaymentCancelled(news.payment_intent_id, news.code, at)
        case kind if kind in CHECKOUT_NEWS:
            return c.NoticeCheckoutEnded(news.object_id, news.code, news.message, at)
        case kind if kind in REFUND_NEWS:
            return c.NoticeRefund(
                news.object_id,
                news.refund_id,
                news.payment_intent_id,
                news.amount_minor,
                news.currency,
                news.object_status,
                news.code,
                at,
            )
        case kind if kind in DISPUTE_NEWS:
            return c.NoticeDispute(
                news.object_id,
                news.payment_intent_id,
                news.amount_minor,
                news.currency,
                news.object_status,
                news.code,
                news.fees or ((("", news.fee_minor),) if news.fee_minor else ()),
                at,
                datetime.fromtimestamp(news.due_by_s, UTC) if news.due_by_s else None,
            )
        case _:
            return c.RecordPaymentFailure(news.event_id, news.code, news.message, at, news.decline_code)
