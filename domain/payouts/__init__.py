"""Payouts: what we owe payees leaves by Stripe transfers, once per payee, currency and period (ADR 0012).

periods     months and ISO weeks, in UTC
refusals    why something is refused: one code and one text each
payees      whom we pay, and what stands in the way
cut         from balances to what is paid, carried and held back
batch       one period's payouts in one currency: drafted, then approved by another or withdrawn
events      what can happen to one payout
state       a payout as its events make it, and its next step
decide      which event follows from a step's result
entries     how a payout is booked at Finance
statements  a payee's account in one period, by kind of movement
invariants  what must hold of payouts and the books together
ports       what the runner and the desk need of the world
"""
