"""The Merkle tree of RFC 6962 and RFC 9162 (SHA-256), and its proofs. Knows nothing of what the leaves are.

``tree`` has the hashes and the tree that grows leaf by leaf, ``proofs`` what inclusion and consistency proofs
are made of and their strict verification, ``tiles`` the tiles of C2SP tlog-tiles and their paths.
"""
