"""The demo: three real bundles, how they get into the catalogue, and the checklist of one purchase."""
