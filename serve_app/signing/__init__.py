"""The signing proxy over HTTP; see ``cluster.signing_proxy``."""
