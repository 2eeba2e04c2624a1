"""The audit log's sequencer. Events enter through the relay's consumer ``audit``."""
