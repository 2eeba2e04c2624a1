"""Deterministic simulation of the order runtime: the production code over faked ports, in virtual time.

Start reading at ``world``, which puts one seed's parts together. ``loop`` is the event loop, ``network`` and
``faults`` decide what goes wrong, ``postgres``, ``stripe``, ``finance`` and ``signer`` are the outside
systems, ``hosts``, ``ingress`` and ``buyers`` the processes, ``invariants`` what must hold. See
docs/simulation.md.
"""
