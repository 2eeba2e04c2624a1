"""The hosted pages: checkout and 3-D Secure, as plain HTML that needs no script and no other file.

Everything that comes from outside is escaped. The content security policy allows nothing but the inline
style and forms that lead to ourselves and to the address that the page's own session names. Each page says
that it is a simulator, so that nobody types a real card.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from urllib.parse import urlsplit

from cluster.local.stripe.checkout_sessions import success_address
from cluster.local.stripe.refusals import Document
from domain.money import format_money

STYLE = files(__package__).joinpath("pages.css").read_text(encoding="utf-8")
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HINTS = (
    ("4242 4242 4242 4242", "pays"),
    ("4000 0000 0000 0002", "is declined"),
    ("4000 0000 0000 9995", "has insufficient funds"),
    ("4000 0027 6000 3184", "asks for 3-D Secure"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the content security policy that it is sent with."""

    status: int
    body: bytes
    policy: str


def checkout(record: Document, *, status: int = 200, error: str | None = None) -> Page:
    """The card form of an open session; ``error`` says why the last attempt failed."""
    session = record["session"]
    back = ""
    if session["cancel_url"]:
        back = f'<p><a href="{escape(session["cancel_url"])}">Cancel and go back</a></p>'
    alert = f'<p class="error" role="alert" id="error">{escape(error)}</p>' if error else ""
    described = (
        ' aria-describedby="error hints" aria-invalid="true"' if error else ' aria-describedby="hints"'
    )
    total = escape(_money(session["amount_total"], session["currency"]))
    hints = "".join(f"<li><code>{number}</code> {escape(effect)}</li>" for number, effect in HINTS)
    content = f"""
<h1>Pay {total}</h1>
{_cart(record)}
{alert}
<form method="post" autocomplete="off">
<label for="number">Card number</label>
<input id="number" name="number" inputmode="numeric" required maxlength="23"
 value="4242 4242 4242 4242" {described}>
<div class="pair">
<div><label for="expiry">Expiry (MM / YY)</label>
<input id="expiry" name="expiry" inputmode="numeric" required maxlength="9" value="12 / 34"></div>
<div><label for="cvc">Security code (CVC)</label>
<input id="cvc" name="cvc" inputmode="numeric" required maxlength="4" value="123"></div>
</div>
<button type="submit">Pay {total}</button>
</form>
<div class="hint" id="hints"><p>Test cards only. Any future date and any code will do:</p>
<ul>{hints}</ul></div>
{back}
"""
    return _page(status, "Checkout", content, (success_address(session),))


def finished(record: Document, *, status: int = 200) -> Page:
    """What a session that is no longer open shows."""
    session = record["session"]
    if session["status"] == "complete":
        content = f"""
<h1>This order has been paid</h1>
{_cart(record)}
<p><a class="button" href="{escape(success_address(session))}">Continue</a></p>
"""
    else:
        link = session["cancel_url"]
        back = f'<p><a class="button" href="{escape(link)}">Back to the shop</a></p>' if link else ""
        content = f"""
<h1>This checkout has expired</h1>
<p>Nothing was charged. Please start again from the shop.</p>
{back}
"""
    return _page(status, "Checkout", content, ())


def challenge(intent: Document, onward: Sequence[str]) -> Page:
    """3-D Secure: approve or fail. ``onward`` holds the addresses to which the answer may lead."""
    amount = escape(_money(intent["amount"], intent["currency"]))
    content = f"""
<h1>Confirm your payment of {amount}</h1>
<p>The bank asks you to authenticate this payment (3-D Secure). Choose what the bank shall answer.</p>
<form method="post">
<button type="submit" name="outcome" value="approve">Approve</button>
<button type="submit" name="outcome" value="fail" class="second">Fail</button>
</form>
"""
    return _page(200, "3-D Secure", content, onward)


def notice(status: int, heading: str, text: str) -> Page:
    """A page that only says something."""
    return _page(status, heading, f"<h1>{escape(heading)}</h1><p>{escape(text)}</p>", ())


def _cart(record: Document) -> str:
    rows = "".join(
        f"<tr><td>{escape(line['description'])}</td><td>{line['quantity']} × "
        f"{escape(_money(line['price']['unit_amount'], line['currency']))}</td>"
        f"<td>{escape(_money(line['amount_total'], line['currency']))}</td></tr>"
        for line in record["lines"]
    )
    session = record["session"]
    total = escape(_money(session["amount_total"], session["currency"]))
    return f"""<table>
<thead><tr><th scope="col">Item</th><th scope="col">Quantity</th><th scope="col">Amount</th></tr></thead>
<tbody>{rows}</tbody>
<tfoot><tr><th scope="row" colspan="2">Total</th><th>{total}</th></tr></tfoot>
</table>"""


def _money(amount_minor: int, currency: str) -> str:
    return format_money(amount_minor, currency.upper())


def _page(status: int, title: str, content: str, onward: Sequence[str]) -> Page:
    # Browsers apply form-action to the redirect that answers a form, so its target has to be allowed too.
    origins = sorted({f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, onward)})
    allowed = " ".join(("'self'", *origins))
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action {allowed}"
    )
    body = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{escape(title)} – Stripe SIMULATOR</title>
<style>{STYLE}</style>
</head>
<body>
<div class="banner" role="note">Stripe SIMULATOR – no money moves, never type a real card</div>
<main>{content}</main>
</body>
</html>
"""
    return Page(status, body.encode(), policy)
