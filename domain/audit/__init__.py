"""The audit log's words: what an entry commits to, checkpoints as signed notes, proofs that travel.

The tree itself is ``domain.merkle``; who appends is ``actors.audit``; what is kept is
``storage.market.audit_log``.
"""
