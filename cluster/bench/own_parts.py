"""Postgres, Finance and the Stripe simulator of a benchmark's own, as the local stack starts them.

``fill`` runs between: when Postgres and the simulator's directory are there, and nothing reads them yet.
All is removed at the end.
"""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from cluster.bench.growth_fill import SCHEMAS
from cluster.bench.own_postgres import own_postgres
from cluster.local import certificates, postgres, services
from cluster.local.layout import Layout, remove_tree
from cluster.local.ports import HOST, allot
from cluster.local.supervisor import Supervisor
from deployments.clock import utc_now
from storage import migrations
from storage.finance.client_tls import ClientTlsFiles

NO_EVENTS = "account.updated"  # what the simulator's one endpoint asks for: nothing that happens here


@dataclass(frozen=True, slots=True)
class Parts:
    """Addresses and credentials. ``owner_dsn`` owns both schemas."""

    owner_dsn: str = field(repr=False)
    market_dsn: str = field(repr=False)
    finance_url: str
    back_office: ClientTlsFiles
    stripe_api: str
    stripe_key: str = field(repr=False)


@contextmanager
def own_parts(fill: Callable[[str, Path], None]) -> Iterator[Parts]:
    """Run the parts for as long as the block.

    ``fill`` gets the owner's DSN and the simulator's data directory.

    Raises:
        LaunchError: a part cannot run here, with its reason.
    """
    home = Path(tempfile.mkdtemp(prefix="ilv-bench-"))
    layout = Layout(home)
    supervisor = Supervisor(threading.Event(), lambda: None)
    try:
        layout.create()
        with own_postgres() as owner_dsn:
            for schema, package in SCHEMAS:
                migrations.apply(owner_dsn, package=package, schema=schema)
            stripe_data = layout.data / "stripe"
            stripe_data.mkdir(mode=0o700)
            fill(owner_dsn, stripe_data)
            try:
                yield _start(layout, supervisor, owner_dsn)
            finally:
                supervisor.stop_all((services.FINANCE, services.STRIPE), lambda _name: None)
    finally:
        supervisor.end()
        remove_tree(home)


def _start(layout: Layout, supervisor: Supervisor, owner_dsn: str) -> Parts:
    database_port = int(str(conninfo_to_dict(owner_dsn)["port"]))
    ports = allot(("stripe", "finance", "http"), {}, {"postgres": database_port})
    keys = {
        "stripe_secret_key": f"sk_test_{secrets.token_hex(16)}",
        "stripe_publishable_key": f"pk_test_{secrets.token_hex(16)}",
        "stripe_webhook_secret": f"whsec_{secrets.token_hex(16)}",
    }
    passwords = {role: secrets.token_hex(16) for role in postgres.LOGIN_ROLES}
    postgres.provision(owner_dsn, passwords)
    tls = certificates.ensure(layout.finance_certificates, [HOST], utc_now())
    environment = services.clean_environment(os.environ, secrets.token_hex(8), layout.home)
    modules = services.Modules()

    market_dsn, finance_dsn = (
        postgres.dsn(role, passwords[role], database_port) for role in ("market_app", "finance_app")
    )
    base = f"http://{HOST}:{ports['http']}"
    simulator = services.stripe(modules.stripe, layout, ports, keys, environment, base)
    silent = {**simulator.env, "STRIPE_SIM_WEBHOOK_EVENTS": NO_EVENTS}
    supervisor.start(replace(simulator, env=silent))
    supervisor.start(services.finance(modules.finance, layout, ports, tls, finance_dsn, environment))
    return Parts(
        owner_dsn=owner_dsn,
        market_dsn=market_dsn,
        finance_url=f"https://{HOST}:{ports['finance']}",
        back_office=ClientTlsFiles(tls.ca, tls.back_office.certificate, tls.back_office.key),
        stripe_api=f"http://{HOST}:{ports['stripe']}",
        stripe_key=keys["stripe_secret_key"],
    )
