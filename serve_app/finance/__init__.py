"""Finance's HTTP face: the ledger contract of ADR 0004."""
