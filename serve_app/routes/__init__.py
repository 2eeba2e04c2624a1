"""The operations, by what they are about. Each module's ``operations`` lists its own."""
