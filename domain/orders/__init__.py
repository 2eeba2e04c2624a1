"""The order's life as a pure decider: ``decide(state, command)`` and ``evolve(state, event)``.

Start reading at ``decide``. States and their names are drawn in docs/architecture.md.
"""
