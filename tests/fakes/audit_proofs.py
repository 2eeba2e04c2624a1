"""A proof file over a small tree, for tests that check such files."""

from collections.abc import Sequence

from domain.audit import checkpoints, entries
from domain.audit.checkpoints import Checkpoint
from domain.audit.proof_files import ProofFile
from domain.audit.proofs import LogProof
from domain.merkle import proofs
from domain.merkle.tree import GrowingTree, Node
from storage.signing.devfile import DevelopmentKeyFile

KEY = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
ORIGIN = "illuvrse.marketplace/audit/5b2c"
RECORD = "order event: é\n{}"
SALT = b"0123456789abcdef"


def grown(leaves: Sequence[bytes]) -> GrowingTree:
    tree = GrowingTree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def proof_file(key: DevelopmentKeyFile = KEY) -> ProofFile:
    """Prove ``RECORD`` as entry 2 of 6."""
    others = [bytes([n]) * 32 for n in range(5)]
    leaves = [*others[:2], entries.leaf_of(SALT, RECORD), *others[2:]]

    def hash_of(node: Node) -> bytes:
        return grown(leaves[node.index << node.level : (node.index + 1) << node.level]).root

    stretches = proofs.inclusion(2, 6)
    path = proofs.assemble(stretches, {node: hash_of(node) for node in proofs.nodes(stretches)})
    note = checkpoints.sign(Checkpoint(ORIGIN, grown(leaves).head), key)
    return ProofFile(RECORD, LogProof(2, SALT, 6, tuple(path)), note)
