"""The ledger's own database schema: entries and postings that can be added to, and never changed."""
