"""The reconciliation at work: one run over a window, and the daily one."""
