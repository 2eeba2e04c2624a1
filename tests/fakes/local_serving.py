"""A stand-in for the Serve application: one deployment that answers every path with 200."""

import json
import os
import signal
import sys
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment
class Ready:
    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "pid": os.getpid()})


def main() -> None:
    settings = json.loads(Path(os.environ["MARKETPLACE_SETTINGS"]).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(address=settings["ray"]["address"], namespace=settings["ray"]["namespace"], log_to_driver=False)
    serve.start(http_options={"host": settings["http"]["host"], "port": settings["http"]["port"]})
    serve.run(Ready.bind(), name="stand-in", route_prefix="/")
    try:
        while True:
            signal.pause()
    finally:
        serve.shutdown()


main()
