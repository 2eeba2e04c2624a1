"""Binds the actors that stand behind the ingress, with every bound that Serve leaves open by default."""

from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.order_host import OrderHostDeployment
from deployments.settings import Settings
from deployments.signer import SignerDeployment

# High on purpose: Serve's own rejection would move a key to another replica. Mailboxes bound the work.
ORDER_HOST_ONGOING_MAX = 4_096
QUEUED_MAX = 4_096  # per caller; beyond it callers get 503 with Retry-After at once
SIGNER_ONGOING_MAX = 64
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 10.0
SHUTDOWN_GRACE_S = 25.0  # above OrderHost.close's own bound
# Serve's own access log would say less than the ingress's metrics and costs 0.2 ms per call.
LOGGING = LoggingConfig(enable_access_log=False)
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@dataclass(frozen=True, slots=True)
class Backends:
    """Serve applications to be bound into the ingress."""

    orders: Any
    signer: Any


def bind_backends(settings: Settings) -> Backends:
    """Return the bound deployments behind the ingress."""
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
    orders = serve.deployment(
        OrderHostDeployment,
        name="OrderHost",
        num_replicas=settings.order_hosts,
        max_ongoing_requests=ORDER_HOST_ONGOING_MAX,
        max_queued_requests=QUEUED_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=SHUTDOWN_GRACE_S,
        ray_actor_options={"num_cpus": 0.1},
        # Zero fallbacks would stall a dead replica's keys; one takes them at once.
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 1}
        ),
    ).bind(settings, signer)
    return Backends(orders=orders, signer=signer)
