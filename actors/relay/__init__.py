"""The way of order events out of Postgres: relay, bus and consumers.

``Relay`` publishes the outbox to a ``Bus``; ``PostgresBus`` hands records to the ``Consumer``s of this
process. All are plain classes over the ports in ``domain.events.ports`` (docs/events.md).
"""
