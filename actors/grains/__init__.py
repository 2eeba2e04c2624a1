"""Virtual actors: see ``actors.grains.runtime``."""
