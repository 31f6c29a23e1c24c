"""Two replicas on a local Ray give the answers of a session, whichever of them answers."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import RequestError, Session
from soda_runtime.serve.options import ServeOptions

from ..runtime.bundles import GOLDEN_V5
from .clients import PICTURES, ask

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
pytest.importorskip("prometheus_client")

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]  # Ray leaves sockets and files open


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a local Ray with two replicas."""
    from soda_runtime.serve.ray_app import ray_application

    with socket.create_server(("127.0.0.1", 0)) as listening:
        free: int = listening.getsockname()[1]
    path = {"env_vars": {"PYTHONPATH": ":".join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=path)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": free})
        serve.run(ray_application(str(GOLDEN_V5), ServeOptions(threads=1), replicas=2, cpus=1))
        yield free
    finally:
        serve.shutdown()
        ray.shutdown()


def test_answers_of_replicas_are_those_of_a_session(port: int) -> None:
    session = Session.open(GOLDEN_V5, threads=1)

    def picture(seed: int) -> NDArray[np.uint8]:
        session.generate(labels=seed % 3, seed=seed)
        return np.clip(np.round(session.images() * 255), 0, 255).astype(np.uint8)[0]

    def answer(seed: int) -> Any:
        return ask(port, "POST", PICTURES, json.dumps({"labels": seed % 3, "seed": seed}).encode())

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(answer, range(24)))
    for seed, each in enumerate(answers):
        assert np.array_equal(each.pictures[0], picture(seed))
    made = set()
    for _ in range(50):  # of whichever replica answers
        found = re.search(r"^soda_pictures_total (\S+)$", ask(port, "GET", "/metrics").body, re.MULTILINE)
        assert found
        made.add(float(found[1]))
    assert max(made) < 1 + len(answers), made  # neither made all of them; each made one to warm up
    assert ask(port, "POST", PICTURES, b'{"labels": 99}').error["param"] == "labels"
    assert ask(port, "GET", "/health/ready").body["ready"]


def test_settings_of_serve_run_are_checked() -> None:
    from soda_runtime.serve.ray_app import app

    with pytest.raises(RequestError, match="replica: no such setting"):
        app({"bundle": "b", "replica": 2})
    with pytest.raises(RequestError, match="bundle="):
        app({})
    app({"bundle": "b", "lora": "a.safetensors:0.5,b.safetensors", "lora_folder": "c"})
