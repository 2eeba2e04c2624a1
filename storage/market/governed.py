"""The governed payment flow as orders understand it. Fails closed: without it nothing is sold."""

from domain.orders.commands import PaymentTerms
from domain.orders.payments import terms_of
from domain.proposals.documents import Kind, PaymentFlow
from storage.market.proposals import Governed


class GovernedTerms:
    """Adapter of ``domain.orders.ports.Terms``; as fresh as ``Governed`` is."""

    def __init__(self, governed: Governed) -> None:
        self._governed = governed

    async def payment_terms(self) -> PaymentTerms:
        """Return the terms in force; see the port for errors."""
        flow = (await self._governed.current(Kind.PAYMENT_FLOW)).document
        assert isinstance(flow, PaymentFlow), "each kind has its own document"
        return terms_of(flow)
