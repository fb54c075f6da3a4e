"""The server's API by Ray Serve, as many replicas as its traffic needs: docs/scaling.md.

In this folder: ``serve run ray_serve:app bundle=/shared/my.delrec``. The key that callers send is in ``SHOP_KEY``.
"""

import os

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.worker import Worker


def app(arguments: dict[str, str]) -> Application:
    """The application; ``arguments`` are ``bundle``, and ``replicas``, the most that there may be (default: 8)."""
    bundle, key = arguments["bundle"], os.environ.get("SHOP_KEY") or None

    def api() -> FastAPI:  # called in each replica, which opens the bundle with a thread of its own
        recommender = Recommender.load(bundle, threads=1)
        recommender.preload()
        return make_api(Worker(recommender), key)

    return serve.deployment(
        serve.ingress(api)(),
        name="delrec",
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=64,  # the worker's own queue answers 503 above that
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": int(arguments.get("replicas", 8)),
            "target_ongoing_requests": 4,
        },
        graceful_shutdown_timeout_s=40,
    ).bind()
