"""A stateful stand-in for Stripe on one machine, spoken to by the official SDK through its base address.

It speaks API version 2026-10-28.endive over HTTP. It moves no money and knows test cards only; no card
number is ever stored or logged. Start it with ``python -m cluster.local.stripe`` (see ``__main__``).

    app            HTTP: authentication, idempotency, faults, replies
    operations, money_operations   which request is which decision, with the parameters that it takes
    payment_intents, charging, refunds, checkout_sessions, payment_methods, webhook_endpoints,
    disputes, accounts, transfers: decisions
    balance_transactions, balance  what every decision books, and the sum of it
    documents, checkout_documents, dispute_documents, connect_documents   the shape of each API object
    dials          fees and waiting times, which a test may set
    turn           what one request reads, changes and announces
    store          sqlite: every object, event, idempotency record and pending webhook
    webhooks       signs and delivers events; http_post is its connection
    hosted, pages  the checkout and 3-D Secure pages
    control        ``/_sim``: what a test wants to see and to break
"""
