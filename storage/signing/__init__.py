"""Ed25519 by libsodium, the development key file, and the signatures that standard tools check.

keys      validity of public keys and signatures; the one verifier
devfile   a plainly marked development key: ``Signer`` and ``KeyWrapper`` of ``domain.signing``
minisig   ``.minisig`` files and ``minisign`` public keys
"""
