"""In-memory implementations of the domain's ports, shared by all tests."""
