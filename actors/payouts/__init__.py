"""Payouts: the desk where batches are drafted and read, and the runner that sends them (ADR 0012)."""
