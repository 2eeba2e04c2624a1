"""The marketplace's own Postgres schema, ``market``: orders, effects, inbox, catalogue, licences."""
