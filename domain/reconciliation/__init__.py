"""Reconciliation: do orders, Finance's books and Stripe tell the same story of the same money?

``facts`` says what each of the three tells of one order, ``compare`` finds where they differ, ``cases`` keeps
a difference as a case until it is gone. Pure: who reads, writes and mends is in ``actors.reconciliation``.
"""
