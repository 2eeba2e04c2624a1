"""Adapters behind the domain's ports: Postgres, S3, Stripe, Finance, keys and the age format.

Each adapter hides one outside system. Rules live in ``domain``; who calls whom and when lives in
``actors``. An adapter turns its system's failures into ``domain.errors``, and nothing else.
"""
