"""The signer's actor: the only place that touches private keys and wrapped secrets."""
