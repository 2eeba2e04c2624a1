"""Contract suites: each runs on the fake and on the real adapter of a port."""
