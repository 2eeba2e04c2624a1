"""A reconciliation wired to the settings: its own connections to Postgres, Finance and Stripe."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from actors.reconciliation.daily import Stopping
from actors.reconciliation.run import Reconciler
from deployments.settings import Settings
from storage.finance.client_tls import ClientTls
from storage.reconciliation.ledger import Ledger
from storage.reconciliation.market import Market
from storage.reconciliation.stripe_moves import StripeMoves


@contextmanager
def open_reconciliation(
    settings: Settings, stopping: Stopping, note: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Market, Callable[[], Reconciler]]]:
    """Connect to Postgres; what is yielded besides connects to the others when it is called.

    Raises:
        DependencyError: Postgres does not answer.
    """
    with ExitStack() as stack:
        market = stack.enter_context(Market(settings.postgres_dsn))

        def reconciler() -> Reconciler:
            finance = settings.finance
            tls = ClientTls(finance.back_office) if finance.back_office else None
            ledger = stack.enter_context(Ledger(finance.url, finance.token, tls=tls))
            stripe = stack.enter_context(StripeMoves(settings.stripe.api_base, settings.stripe.secret_key))
            return Reconciler(market, ledger, stripe, payouts=market, note=note, stopping=stopping)

        yield market, reconciler
