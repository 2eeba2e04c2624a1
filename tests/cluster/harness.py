"""A whole marketplace with proxies between its parts, and the means to break each of them.

``Stand`` is a stack in a directory of its own whose application and Finance reach Postgres, Finance and
Stripe through ``harness_proxy``. It finds parts by discovery (the run's own record, ``/proc``), never by
counting on where orders run; kills by pid and start time; and knows when everything has healed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import psycopg
from harness_proxy import Proxy
from harness_shoppers import Seen, settle

from cluster import checking
from cluster.demo.seeding import seed
from cluster.local import ports, processes, ray_head, services, settings_file, state
from cluster.local.launcher import Stack
from cluster.local.layout import read_json, remove_tree, write_json

HEAL_S = 120.0  # a new Ray worker on two shared cores; a whole Ray takes several of those
RELAYED_S = 30.0  # until the last event has been taken, once nobody buys: a relay that was killed is replaced
LOAD_S = 1.0  # of processor time that tells a busy replica from one that waits
GRACE_S = 20.0  # above a lease and a backoff of the first tries
NEVER_PASSING = frozenset({"I2", "I3", "I4", "I6"})  # no moment of running work looks like these
UNLOGGED = "is not in the audit log"
REPO = Path(__file__).resolve().parents[2]


class LoneStack(Stack):
    """A stack whose Serve also keeps its fallback proxy to itself.

    HAProxy turns to that proxy while no replica is up. Its port is fixed unless the environment says
    otherwise, and shared: a second stack's buyers would then reach the first one's marketplace.
    """

    @property
    def ray_environment(self) -> dict[str, str]:
        for name in ("serve_fallback_http", "serve_fallback_grpc"):
            if name not in self._ports:
                self._ports[name] = ports.pick(set(self._ports.values()))
        own = {
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self._ports["serve_fallback_http"]),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(self._ports["serve_fallback_grpc"]),
        }
        return {**own, **super().ray_environment}


class ProxiedStack(LoneStack):
    """A stack whose parts are told the proxies' ports."""

    def __init__(self, home: Path, *, order_hosts: int = 0) -> None:
        super().__init__(home)
        self.proxies: dict[str, Proxy] = {}
        self._order_hosts = order_hosts

    def _prepare(self) -> None:
        super()._prepare()
        for name in ("postgres", "finance", "stripe"):
            self.proxies[name] = Proxy(name, self._ports[name]).start()
        told = {**self._ports, **{name: proxy.port for name, proxy in self.proxies.items()}}
        settings = settings_file.settings(self.layout, self._credentials, told, self._tls)
        settings["order_hosts"] = self._order_hosts
        write_json(self.layout.settings_json, settings)

    def _start_finance(self, migrated) -> None:
        while not migrated.is_set():
            self._running().pause(0.05)
        self._step("finance", lambda: self._running().start(self._finance(self.proxies["postgres"].port)))

    def _stop(self, status: str, message: str) -> None:
        super()._stop(status, message)
        for proxy in self.proxies.values():
            proxy.stop()
        self.proxies = {}


class SecondStack(LoneStack):
    """Another Ray cluster that serves the same databases, Finance and Stripe as ``first``."""

    def __init__(self, home: Path, first: "Stand") -> None:
        super().__init__(home)
        self._first = first

    def _prepare(self) -> None:
        super()._prepare()
        own = read_json(self.layout.settings_json)
        shared = read_json(self._first.stack.layout.settings_json)
        write_json(
            self.layout.settings_json,
            {**shared, "http": own["http"], "ray": own["ray"], "log_file": own["log_file"]},
        )

    def _start_parts(self) -> None:
        self._together([self._start_ray])
        self._together([self._start_serving])


class Stand:
    """A running, seeded marketplace to break."""

    def __init__(self, stack: ProxiedStack) -> None:
        self.stack = stack
        seed(stack.layout, stack.local)
        self._replicas_max: dict[str, int] = {}
        self._wait(lambda: services.SERVING_WORDS in self._serving_log(), HEAL_S, "all replicas")
        self._replicas_max = {name: len(found) for name, found in self.all_replicas().items()}

    @property
    def local(self) -> dict[str, Any]:
        return self.stack.local

    @property
    def proxies(self) -> dict[str, Proxy]:
        return self.stack.proxies

    # -- buyers' needs -------------------------------------------------------------------------

    def buyer_tokens(self, count: int) -> list[str]:
        tokens = []
        with self.http("operator") as operator:
            for _ in range(count):
                issued = operator.post(
                    "/v1/ops/tokens",
                    json={"role": "buyer", "principal_id": f"usr_{uuid4().hex}"},
                    headers={"Idempotency-Key": str(uuid4())},
                )
                assert issued.status_code == 201, issued.text
                tokens.append(issued.json()["token"])
        return tokens

    def wish(self) -> dict[str, Any]:
        with self.http() as client:
            skus = {sku["name"]: sku["id"] for sku in client.get("/v1/skus").json()["items"]}
        return {
            "lines": [{"sku_id": skus["logline"], "quantity": 1}],
            "currency": "USD",
            "delivery": {"mode": "released_key"},
        }

    def http(self, role: str | None = None, token: str | None = None) -> httpx.Client:
        token = token or (self.local["tokens"][role] if role else None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.local["base_url"], headers=headers, timeout=20)

    # -- parts ---------------------------------------------------------------------------------

    def part(self, name: str) -> processes.ProcessId:
        """A child of the launcher: postgres, finance, stripe, seaweedfs, ray, marketplace."""
        return self._record().children[name]

    def replicas(self, deployment: str) -> list[processes.ProcessId]:
        """The worker processes of one Serve deployment."""
        return self.all_replicas().get(deployment, [])

    def all_replicas(self) -> dict[str, list[processes.ProcessId]]:
        """The worker processes of every Serve deployment, by its name."""
        return replicas_of(self.stack)

    def order_hosts(self) -> list[processes.ProcessId]:
        """Whatever runs orders: hosts of their own, or else the ingress."""
        return order_hosts_of(self.stack)

    def ingress(self) -> list[processes.ProcessId]:
        return ingress_of(self.stack)

    def ingress_by_load(self) -> list[processes.ProcessId]:
        """The ingress replicas, the busiest first: the proxy fills one before the next."""
        replicas = self.ingress()
        before = [_processor_s(one) for one in replicas]
        time.sleep(LOAD_S)  # the measurement itself
        spent = {one: _processor_s(one) - since_s for one, since_s in zip(replicas, before, strict=True)}
        return sorted(replicas, key=spent.__getitem__, reverse=True)

    def ray_process(self, program: str) -> processes.ProcessId:
        """``gcs_server`` or ``raylet``."""
        run = processes.of_run(self._record().run_id)
        found = [one for one in run if Path(_words(one)[0]).name == program]
        assert len(found) == 1, (program, found)
        return found[0]

    def statuses(self, order_ids: Collection[str]) -> dict[str, str]:
        """Status of each order in Postgres."""
        with psycopg.connect(self.local["postgres_dsn"]) as owner:
            return dict(
                owner.execute(
                    "SELECT order_id, status FROM market.orders WHERE order_id = ANY(%s)", [list(order_ids)]
                ).fetchall()
            )

    def _record(self) -> state.RunRecord:
        return _record(self.stack)

    def _serving_log(self) -> str:
        return (self.stack.layout.log / "marketplace.log").read_text(encoding="utf-8")

    # -- faults ---------------------------------------------------------------------------------

    def kill(self, process: processes.ProcessId) -> float:
        """kill -9; returns when, in monotonic seconds."""
        assert process.alive(), process
        processes.send(process, signal.SIGKILL)
        assert not processes.wait_gone([process], 10), f"{process} survives SIGKILL"
        return time.monotonic()

    @contextmanager
    def stopped(self, process: processes.ProcessId) -> Iterator[None]:
        """SIGSTOP of a process and its children, SIGCONT at the end: a long pause, not a death."""
        family = [process, *_children_of(process)]
        for one in family:
            processes.send(one, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in reversed(family):
                processes.send(one, signal.SIGCONT)

    def terminate_connections(self) -> int:
        """Have Postgres end every session of the product, whatever it is doing."""
        with psycopg.connect(self.local["postgres_dsn"], autocommit=True) as owner:
            ended = owner.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE usename IN ('market_app', 'finance_app')"
            ).fetchone()
        assert ended is not None
        return ended[0]

    def redeploy(self, **changes: Any) -> subprocess.Popen[bytes]:
        """Start a rolling update: the same application with changed settings, by a driver of its own."""
        settings = read_json(self.stack.layout.settings_json) | changes
        path = self.stack.layout.run / "redeployed.json"
        write_json(path, settings)
        environment = {
            **services.clean_environment(os.environ, self._record().run_id, self.stack.layout.home),
            **self.stack.ray_environment,
            "MARKETPLACE_SETTINGS": str(path),
        }
        with (self.stack.layout.log / "redeploy.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", REDEPLOY],
                cwd=self._record().temporary + "/serving",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # -- healing and judging ----------------------------------------------------------------------

    def heal(self, within_s: float = HEAL_S) -> float:
        """Wait until every part runs and answers; returns how long that took, in seconds."""
        began = time.monotonic()
        self._wait(self._is_whole, within_s, "the marketplace to be whole again")
        return time.monotonic() - began

    def _is_whole(self) -> bool:
        if self.stack.failure is not None:
            raise self.stack.failure
        children = self._record().children
        if len(children) < len(STACK_PARTS) or not all(one.alive() for one in children.values()):
            return False
        replicas = self.all_replicas()
        if any(len(replicas.get(name, [])) < count for name, count in self._replicas_max.items()):
            return False
        return services.answers(urlsplit(self.local["base_url"]).port, "/readyz")

    def judge(self, seen: Seen, within_s: float = 60.0) -> checking.Report:
        """Everything promised was kept, and the invariants hold of every order in the database."""
        settle(self, seen, within_s)
        where = checking.sources(self.stack.layout, {}, with_stripe=True)
        # The checker goes by itself to the databases, not through the proxies.
        where = checking.Sources(
            self._direct(where.market_dsn),
            where.finance_dsn,
            self.local["stripe"]["api_base"],
            where.stripe_key,
        )
        deadline = time.monotonic() + within_s
        while True:
            found: list = []
            report = checking.run(where, grace_s=GRACE_S, on_violation=found.append)
            if not found:
                break
            # What the audit log does not have yet comes when the background process is there again.
            lasting = [one for one in found if one.invariant in NEVER_PASSING and UNLOGGED not in one.detail]
            assert not lasting, lasting[:10]
            assert time.monotonic() < deadline, found[:10]
            time.sleep(1.0)
        acknowledged = {one.order_id for one in seen.purchases if one.order_id}
        lost = acknowledged - self.statuses(acknowledged).keys()
        assert not lost, f"I10: acknowledged and lost: {sorted(lost)[:10]}"
        self._judge_relaying()
        self._judge_streams(seen)
        return report

    def _judge_relaying(self) -> None:
        """Everything has left within ``RELAYED_S``, and sales are the paid orders, by one plain query."""
        deadline = time.monotonic() + RELAYED_S
        with psycopg.connect(self.local["postgres_dsn"], autocommit=True) as owner:
            while True:
                found = owner.execute(RELAYED).fetchone()
                assert found is not None
                waiting, sold_minor, paid_minor = found
                if not waiting and sold_minor == paid_minor:
                    return
                assert time.monotonic() < deadline, (
                    f"{waiting} commits wait in the outbox, {sold_minor} is sold, {paid_minor} was paid"
                )
                time.sleep(0.2)

    def _judge_streams(self, seen: Seen) -> None:
        """What streams numbered is what is stored: none brought more events than there are."""
        streamed = {one.order_id: one.events for one in seen.purchases if one.events}
        with psycopg.connect(self.local["postgres_dsn"]) as owner:
            stored = dict(
                owner.execute(
                    "SELECT order_id, seq FROM market.orders WHERE order_id = ANY(%s)", [list(streamed)]
                ).fetchall()
            )
        invented = [order_id for order_id, events in streamed.items() if events > stored.get(order_id, 0)]
        assert not invented, f"streams brought events that are not stored: {invented[:10]}"

    def _direct(self, dsn: str) -> str:
        return dsn.replace(f":{self.proxies['postgres'].port}/", f":{self.proxies['postgres'].target_port}/")

    def _wait(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}: {self.describe()}"
            time.sleep(0.2)

    def describe(self) -> str:
        """The state of the parts, for failure messages."""
        children = {name: one.alive() for name, one in self._record().children.items()}
        replicas = {name: len(found) for name, found in self.all_replicas().items()}
        return f"children alive {children}, replicas {replicas} of {self._replicas_max}"


STACK_PARTS = ("postgres", "seaweedfs", "stripe", "finance", ray_head.NAME, services.SERVING)
RELAYED = """
SELECT (SELECT count(*) FROM market.outbox),
       (SELECT coalesce(sum(gross_minor), 0)::bigint FROM market.sales_by_day),
       (SELECT coalesce(sum(total_minor), 0)::bigint FROM market.orders AS o WHERE EXISTS (
           SELECT FROM market.order_events AS e WHERE e.order_id = o.order_id AND e.kind = 'order.paid'))
"""
# What a deployment tool does: the whole application again, no stage in between.
REDEPLOY = """
import os
from pathlib import Path
import ray
from ray import serve
from deployments.settings import load_settings
from serve_app.serving import build_application
settings = load_settings(Path(os.environ["MARKETPLACE_SETTINGS"]))
ray.init(address=settings.ray_address, namespace=settings.ray_namespace, log_to_driver=False)
serve.run(build_application(settings), name="marketplace", route_prefix="/")
"""


def replicas_of(stack: Stack) -> dict[str, list[processes.ProcessId]]:
    """The worker processes of every Serve deployment of a stack, by its name."""
    found: dict[str, list[processes.ProcessId]] = {}
    for process in processes.of_run(_record(stack).run_id):
        title = _words(process)[0]  # ray::ServeReplica:<application>:<deployment>, and what it does
        if title.startswith("ray::ServeReplica:"):
            deployment = re.split(r"[^A-Za-z0-9_]", title.split(":")[4])[0]
            found.setdefault(deployment, []).append(process)
    return found


def ingress_of(stack: Stack) -> list[processes.ProcessId]:
    """The replicas of the ingress, whatever its deployment is called."""
    replicas = replicas_of(stack)
    names = [name for name in replicas if "ngress" in name]
    assert len(names) == 1, f"no deployment looks like the ingress: {sorted(replicas)}"
    return replicas[names[0]]


def order_hosts_of(stack: Stack) -> list[processes.ProcessId]:
    """Whatever runs a stack's orders: hosts of their own, or else the ingress."""
    return replicas_of(stack).get("OrderHost") or ingress_of(stack)


def _record(stack: Stack) -> state.RunRecord:
    record = state.read_record(stack.layout.state_json)
    assert record is not None, "the stack has no record"
    return record


def _words(process: processes.ProcessId) -> list[str]:
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return [""]
    return command.split("\0")


def _processor_s(process: processes.ProcessId) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _children_of(process: processes.ProcessId) -> list[processes.ProcessId]:
    try:
        found = [processes.identify(one.pid) for one in psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [one for one in found if one is not None]


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Start a stack in its own directory, stop it and remove the directory."""
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        remove_tree(stack.layout.outside)
        shutil.rmtree(stack.layout.home, ignore_errors=True)


def new_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="ilv-faults-"))
    home.chmod(0o711)  # Postgres' own user must get through to its data
    return home
