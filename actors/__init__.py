"""The stateful actors as plain classes: order grains and their host, the signer, the publisher.

Unit tests call them directly. What makes them Ray Serve deployments lives in ``deployments``.
"""
