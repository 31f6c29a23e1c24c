"""Answers of a server: those of a session to the same seeds, whatever batch they were made in."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import Bundle, EngineError, Session

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from soda_runtime.serve import service as service_module
from soda_runtime.serve.merge import Sample
from soda_runtime.serve.options import ServeOptions
from soda_runtime.serve.player import BatchPlayer
from soda_runtime.serve.service import Service

from ..runtime.bundles import GOLDEN_V5, GOLDEN_V5_POLICY, GOLDEN_V5_TEXT
from .clients import PICTURES, Running, ask, read, running, send


@pytest.fixture(scope="module")
def labels() -> Iterator[Running]:
    """A bundle of classes, whose sampler adds noise at every step."""
    with running(GOLDEN_V5, batch=4) as server:
        yield server


def expected(bundle: Path, **request: Any) -> NDArray[np.uint8]:
    """What a session of its own makes: [n, H, W, channels] in 0..255."""
    session = Session.open(bundle, threads=1)
    session.generate(**request)
    return np.clip(np.round(session.images() * 255), 0, 255).astype(np.uint8)


def metric(server: Running, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").body, re.MULTILINE)
    assert found, name
    return float(found[1])


class Gate:
    """Holds back the thread that makes pictures, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.batches, play = threading.Event(), list[list[Sample]](), BatchPlayer.play

        def held(player: BatchPlayer, samples: Any) -> Any:
            self.batches.append(list(samples))
            assert self.opened.wait(60)
            return play(player, samples)

        monkeypatch.setattr(BatchPlayer, "play", held)

    @property
    def seeds(self) -> list[list[int]]:
        """Of the pictures of each batch so far."""
        return [[sample.asked.seed for sample in batch] for batch in self.batches]


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_answer_is_that_of_a_session_with_the_same_seed(labels: Running) -> None:
    one = labels.post(labels=3, seed=11)
    assert np.array_equal(one.pictures, expected(GOLDEN_V5, labels=3, seed=11))
    several = labels.post(labels=[1, 2, 3, 1, 2], n=5, seed=2**64 - 1, guidance=3.0, policy="full")  # two batches
    wanted = expected(GOLDEN_V5, labels=[1, 2, 3, 1, 2], seed=2**64 - 1, guidance=3.0, policy="full")
    assert np.array_equal(several.pictures, wanted)


def test_requests_that_are_made_together_get_what_they_would_get_alone(
    labels: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first = send(labels.port, labels=0, seed=100)
    wait_until(lambda: gate.batches)
    waiting = [send(labels.port, labels=seed % 3, seed=seed, guidance=2.0 + seed // 3) for seed in range(5)]
    wait_until(lambda: metric(labels, "soda_requests_waiting") == 5)
    gate.opened.set()
    assert read(first).status == 200
    answers = [read(connection) for connection in waiting]
    assert sorted(map(sorted, gate.seeds[1:])) == [[0, 1, 2], [3, 4]]  # those of equal guidance
    for seed, answer in enumerate(answers):
        alone = labels.post(labels=seed % 3, seed=seed, guidance=2.0 + seed // 3)
        assert np.array_equal(answer.pictures, alone.pictures)


def test_a_seed_that_the_server_chose_makes_the_same_picture_again(labels: Running) -> None:
    chosen = labels.post(labels=5)
    assert chosen.body["seed"] != labels.post(labels=5).body["seed"]
    assert np.array_equal(labels.post(labels=5, seed=chosen.body["seed"]).pictures, chosen.pictures)


def test_prompts_are_answered_with_what_a_session_makes_of_them() -> None:
    requests = [
        {"prompt": "a red circle", "seed": 1}, {"prompt": "a blue square", "seed": 2, "n": 2},
        {"prompt": "a red circle", "negative_prompt": "blue", "seed": 3},
    ]  # fmt: skip
    with running(GOLDEN_V5_TEXT, batch=3, wait_ms=300) as server:
        for asked, answer in zip(requests, server.post_all(requests), strict=True):
            of_session = {name if name != "n" else "batch": value for name, value in asked.items()}
            made = answer.pictures.astype(int)
            assert np.abs(made - expected(GOLDEN_V5_TEXT, **of_session)).max() <= 1, asked
        assert server.post(prompt="a red circle").body["truncated"] == {}
        assert server.post(prompt="a red circle " * 60).body["truncated"]["prompt"].endswith("a red circle")
        assert server.post(prompt="").error["param"] == "prompt"
        assert server.post(prompt="a", labels=1).error["param"] == "labels"


def test_pictures_that_decide_for_themselves_do_not_depend_on_their_batch() -> None:
    requests = [{"labels": seed % 3, "seed": seed} for seed in range(3)]
    with running(GOLDEN_V5_POLICY, batch=3, wait_ms=300) as server:
        answers = server.post_all([*requests, {"labels": 1, "seed": 7, "policy": "frozen"}])
    for asked, answer in zip(requests, answers, strict=False):
        assert np.array_equal(answer.pictures, expected(GOLDEN_V5_POLICY, **asked, policy="adaptive"))
    assert np.array_equal(answers[-1].pictures, expected(GOLDEN_V5_POLICY, labels=1, seed=7, policy="frozen"))


def test_a_full_line_is_said_at_once_and_empties_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(GOLDEN_V5, batch=1, queue=2) as server:
        gate = Gate(monkeypatch)
        accepted = [send(server.port, labels=1, seed=0)]
        wait_until(lambda: gate.batches)
        accepted += [send(server.port, labels=1, seed=seed) for seed in (1, 2)]
        wait_until(lambda: metric(server, "soda_requests_waiting") == 2)
        refused = server.post(labels=1, seed=3)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.error["type"] == "rate_limit_error"
        gate.opened.set()
        assert [read(connection).status for connection in accepted] == [200, 200, 200]
        assert server.post(labels=1, seed=3).status == 200


def test_a_client_that_leaves_before_its_turn_costs_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(GOLDEN_V5, batch=1, queue=2) as server:
        gate = Gate(monkeypatch)
        first = send(server.port, labels=1, seed=0)
        wait_until(lambda: gate.batches)
        leaves, stays = (send(server.port, labels=1, seed=seed) for seed in (1, 2))
        wait_until(lambda: metric(server, "soda_requests_waiting") == 2)
        leaves.close()
        wait_until(lambda: metric(server, "soda_requests_waiting") == 1)  # its place is free
        gate.opened.set()
        assert (read(first).status, read(stays).status) == (200, 200)
        assert gate.seeds == [[0], [2]]
        assert 'soda_requests_total{status="499"} 1.0' in server.get("/metrics").body


def test_pictures_that_nobody_waits_for_any_more_are_left_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, steps, step = threading.Event(), threading.Event(), list[int](), Session.step
    with running(GOLDEN_V5) as server:

        def slow(session: Session, index: int) -> None:
            steps.append(index)
            step(session, index)
            if index == 1:
                begun.set()
                assert go_on.wait(60)

        monkeypatch.setattr(Session, "step", slow)
        leaves = send(server.port, labels=1, seed=1)
        assert begun.wait(60)
        leaves.close()
        wait_until(lambda: server.service.in_flight == 0)
        go_on.set()
        monkeypatch.setattr(Session, "step", step)
        assert np.array_equal(server.post(labels=2, seed=2).pictures, expected(GOLDEN_V5, labels=2, seed=2))
        assert steps == [0, 1]


def test_a_picture_that_fails_does_not_fail_those_made_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    play = BatchPlayer.play

    def failing(player: BatchPlayer, samples: Any) -> Any:
        if any(sample.asked.seed == 13 for sample in samples):
            raise EngineError("latents of sample 1: a value is NaN")
        return play(player, samples)

    monkeypatch.setattr(BatchPlayer, "play", failing)
    with running(GOLDEN_V5, batch=3, wait_ms=300) as server:
        answers = server.post_all([{"labels": 1, "seed": seed} for seed in (12, 13, 14)])
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert answers[1].error["type"] == "server_error"
    assert "NaN" in answers[1].error["message"]


def test_a_fault_of_ours_is_no_secret_of_the_log_alone(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    with running(GOLDEN_V5) as server:
        play = BatchPlayer.play
        monkeypatch.setattr(BatchPlayer, "play", lambda *_: {}[1])
        answer = server.post(labels=1)
        monkeypatch.setattr(BatchPlayer, "play", play)
        assert (answer.status, answer.error["type"]) == (500, "server_error")
        assert "KeyError" in caplog.text
        read = service_module.judge_asked
        monkeypatch.setattr(service_module, "judge_asked", lambda *_: {}[2])
        assert server.post(labels=1).error == answer.error
        monkeypatch.setattr(service_module, "judge_asked", read)
        assert server.post(labels=1).status == 200


def test_health_models_and_metrics_tell_about_the_server(labels: Running) -> None:
    assert labels.get("/health").body == {"live": True, "ready": True}
    assert labels.get("/health/live").status == labels.get("/health/ready").status == 200
    (model,) = labels.get("/v1/models").body["data"]
    assert model == labels.get(f"/v1/models/{model['id']}").body
    assert (model["id"], model["object"], model["soda"]["size"]) == ("v5", "model", "8x8")
    assert labels.get("/v1/models/other").error["code"] == "model_not_found"
    before = metric(labels, "soda_pictures_total")
    assert labels.post(labels=1, n=2).status == 200
    assert metric(labels, "soda_pictures_total") == before + 2
    assert labels.get("/nowhere").status == 404
    assert ask(labels.port, "GET", PICTURES).status == 405
    assert ask(labels.port, "POST", PICTURES, b" " * (1 << 20) + b"{}").status == 413


def test_a_server_is_ready_when_somebody_makes_pictures_and_until_it_stops() -> None:
    service = Service(Bundle.open(GOLDEN_V5, threads=1), ServeOptions())
    assert (service.is_live, service.is_ready) == (False, False)
    service.start()
    assert (service.is_live, service.is_ready) == (True, True)
    service.stop_accepting()
    assert (service.is_live, service.is_ready) == (True, False)
    service.close()
    assert not service.is_live


def test_openai_s_own_client_gets_pictures_and_errors(labels: Running) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{labels.port}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["v5"]
        made = client.images.generate(prompt="", n=2, size="8x8", extra_body={"labels": [1, 2], "seed": 9})
        again = labels.post(labels=[1, 2], n=2, seed=9)
        assert [each.b64_json for each in made.data] == [each["b64_json"] for each in again.body["data"]]
        with pytest.raises(openai.BadRequestError, match="url"):
            client.images.generate(prompt="", response_format="url", extra_body={"labels": 1})
