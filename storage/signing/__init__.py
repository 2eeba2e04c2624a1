"""Ed25519 by libsodium, the signing backends, and the signatures that standard tools check.

keys      validity of public keys and signatures; the one verifier
backends  backends by their addresses
guarded   what stands between us and a key service: quota, deadline, retries, circuit, verification
kms, vault, hsm, proxy    key services: AWS KMS, Vault Transit, PKCS#11, our signing proxy
devfile   a plainly marked development key: ``Signer`` and ``KeyWrapper`` of ``domain.signing``
minisig   ``.minisig`` files and ``minisign`` public keys
"""
