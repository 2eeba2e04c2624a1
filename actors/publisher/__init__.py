"""Publication: from a seller's upload and signed manifest to one encrypted payload for all buyers.

archives       which bundles are safe to hand to buyers
sealing        what the signer does for a release: wrap its file key, countersign, minisign
publication    the publisher itself
"""
