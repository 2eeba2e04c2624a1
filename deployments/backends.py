"""Binds the actors that stand behind the ingress, with every bound that Serve leaves open by default."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.background import BackgroundDeployment
from deployments.order_host import OrderHostDeployment
from deployments.settings import Settings
from deployments.signer import SignerDeployment

log = logging.getLogger("marketplace.deployments")

# High on purpose: Serve's own rejection would move a key to another replica. Mailboxes bound the work.
ORDER_HOST_ONGOING_MAX = 4_096
QUEUED_MAX = 4_096  # per caller; beyond it callers get 503 with Retry-After at once
SIGNER_ONGOING_MAX = 64
BACKGROUND_ONGOING_MAX = 16  # it is only asked how it is
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 10.0
SHUTDOWN_GRACE_S = 25.0  # above OrderHost.close's own bound
# Serve's own access log would say less than the ingress's metrics and costs 0.2 ms per call; even switched
# off its lines are made, unless the level is above theirs.
LOGGING = LoggingConfig(enable_access_log=False, log_level="WARNING")
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@dataclass(frozen=True, slots=True)
class Backends:
    """Serve applications to be bound into the ingress; ``orders`` is None when the ingress runs them."""

    orders: Any | None
    background: Any
    signer: Any


def bind_backends(settings: Settings, *, single: bool = False) -> Backends:
    """Return the bound deployments behind the ingress; ``single`` asks for one replica of each."""
    signer = serve.deployment(
        SignerDeployment,
        name="Signer",
        num_replicas=1,
        max_ongoing_requests=SIGNER_ONGOING_MAX,
        max_queued_requests=QUEUED_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=LOGGING,
        ray_actor_options={"num_cpus": 0.1},
    ).bind(settings)
    background = serve.deployment(
        BackgroundDeployment,
        name="Background",
        num_replicas=1,
        max_ongoing_requests=BACKGROUND_ONGOING_MAX,
        max_queued_requests=BACKGROUND_ONGOING_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=SHUTDOWN_GRACE_S,
        ray_actor_options={"num_cpus": 0.1},
    ).bind(settings, signer)
    orders = _order_hosts(settings, signer, single=single) if settings.order_hosts else None
    return Backends(orders=orders, background=background, signer=signer)


def _order_hosts(settings: Settings, signer: Any, *, single: bool) -> Any:
    options: dict[str, Any] = {}
    if find_spec(_ROUTER.rpartition(".")[0]) is not None:
        # Zero fallbacks would stall a dead replica's keys; one takes them at once.
        options["request_router_config"] = RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 1}
        )
    else:
        log.warning("this Ray has no consistent-hash router; orders go to any host")
    return serve.deployment(
        OrderHostDeployment,
        name="OrderHost",
        num_replicas=1 if single else settings.order_hosts,
        max_ongoing_requests=ORDER_HOST_ONGOING_MAX,
        max_queued_requests=QUEUED_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=SHUTDOWN_GRACE_S,
        ray_actor_options={"num_cpus": 0.1},
        **options,
    ).bind(settings, signer)
