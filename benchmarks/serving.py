"""A server under load: every answer is right or a clear refusal, and what serving costs beside `bench`.

    python benchmarks/serving.py engines/digits-b17-ort --json serving.json

A bundle of classes is served by `soda-export serve`. First client processes send requests that can all be made
together, for times that can be compared with `bench`. Then they send requests of several kinds (guidance, policy, one
picture or two), and one client is killed while it waits for an answer; another takes over what it had left. Then more
requests come at once than may wait, and at last SIGTERM comes while requests are in flight, and one more after it.
Every picture is compared with `Session.generate` of the same seed. Exit code 1 where a picture differs, an answer is
missing, a refusal is none of 429 and 503, or the exit code is not 143.
"""

from __future__ import annotations

import argparse
import base64
import collections
import http.client
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime" / "python")]

CLIENTS, KINDS, QUEUE, ALIKE, WAIT_MS = 4, 100, 8, 60, 20
BURST, LAST = 30, 12  # requests at once for a full queue, and in flight at SIGTERM
Fields = dict[str, Any]


def make_requests(count: int, classes: int) -> list[Fields]:
    """`count` requests of at most KINDS different ones, so that checking them takes less time than serving."""
    choose = random.Random(0)
    kinds = [
        {
            "labels": choose.randrange(classes), "seed": choose.getrandbits(64), "n": choose.choice([1, 1, 1, 2]),
            "guidance": choose.choice([1.5, 1.5, 3.0]), "policy": choose.choice(["frozen", "frozen", "full"]),
        }
        for _ in range(KINDS)
    ]  # fmt: skip
    return [choose.choice(kinds) for _ in range(count)]


def ask(port: int, fields: Fields) -> tuple[int, Any, float]:
    """Status, 0 where the connection is refused or ends; the JSON that came; seconds."""
    began, connection = time.perf_counter(), http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/v1/images/generations", json.dumps(fields).encode())
        response = connection.getresponse()
        return response.status, json.loads(response.read()), time.perf_counter() - began
    except OSError:
        return 0, None, time.perf_counter() - began
    finally:
        connection.close()


def client(port: int, requests: Sequence[Fields]) -> None:
    """Send one after the other, and print what came of each as a line; what is refused as full is sent again."""
    for fields in requests:
        status, body, seconds = ask(port, fields)
        while status == 429:
            time.sleep(0.2)
            status, body, _ = ask(port, fields)
        print(json.dumps([fields, status, body, seconds]), flush=True)


class ClientProcess:
    """A client whose lines are read by a thread."""

    def __init__(self, bundle: Path, port: int, requests: Sequence[Fields]) -> None:
        self.requests, self.answers = requests, list[Any]()
        command = [sys.executable, __file__, str(bundle), "--client", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(requests)))
        self.process.stdin.close()
        self._reader = threading.Thread(target=lambda: self.answers.extend(self._lines()))
        self._reader.start()

    def _lines(self) -> Iterator[Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def join(self) -> list[Any]:
        """Its answers, once it has ended."""
        self.process.wait()
        self._reader.join()
        return self.answers


def serve(bundle: Path, batch: int) -> tuple[subprocess.Popen[str], int]:
    """A server and its port."""
    options = ["--port", "0", "--batch", str(batch), "--queue", str(QUEUE), "--drain-seconds", "600"]
    options += ["--wait-ms", str(WAIT_MS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "soda_export", "serve", str(bundle), *options], stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r" at http://127\.0\.0\.1:(\d+)/", line)
        if found:
            return process, int(found[1])
    sys.exit("the server did not start")


def under_load(bundle: Path, port: int, requests: Sequence[Fields], kills: bool) -> tuple[list[Any], Fields]:
    """All answers of CLIENTS processes, and their times. kills: one of the clients, in the middle."""
    began, answers = time.perf_counter(), list[Any]()
    batches, made = metric(port, "soda_batch_pictures_count"), metric(port, "soda_batch_pictures_sum")
    clients = [ClientProcess(bundle, port, requests[number::CLIENTS]) for number in range(CLIENTS)]
    if kills:
        victim = clients[0]
        while len(victim.answers) < len(victim.requests) // 2:
            time.sleep(0.01)
        victim.process.send_signal(signal.SIGKILL)  # its next request waits or is made
        answers = list(victim.join())
        clients[0] = ClientProcess(bundle, port, victim.requests[len(answers) :])
    answers += [answer for each in clients for answer in each.join()]
    seconds = time.perf_counter() - began
    batches, made = metric(port, "soda_batch_pictures_count") - batches, metric(port, "soda_batch_pictures_sum") - made
    taken = sorted(answer[3] for answer in answers)
    pictures = sum(answer[0]["n"] for answer in answers)
    return answers, {
        "requests": len(requests), "answers": len(answers), "seconds": round(seconds, 1),
        "pictures_per_second": round(pictures / seconds, 3), "median_s": round(statistics.median(taken), 3),
        "p95_s": round(taken[int(0.95 * len(taken))], 3), "pictures_per_batch": round(made / batches, 2),
    }  # fmt: skip


def at_once(
    port: int, requests: Sequence[Fields], then: Callable[[], bool] = lambda: False, pause: float = 0.5
) -> list[Any]:
    """Answers of requests that all come at the same time; `then` is called when they are on their way, and one more
    request is sent where it returns true."""
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda f=fields: answers.append([f, *ask(port, f)])) for fields in requests]
    for thread in threads:
        thread.start()
    time.sleep(pause)
    if then():
        answers.append([requests[0], *ask(port, requests[0])])
    for thread in threads:
        thread.join()
    return answers


def beside_session(bundle: Path, port: int, at_a_time: int, count: int) -> Fields:
    """A session in this process and the server in turn, `at_a_time` pictures: their medians, and that of the ratios."""
    from soda_runtime import Session

    session, pairs = Session.open(bundle), list[tuple[float, float]]()
    for seed in range(count + 1):
        asked = [{"labels": 3, "seed": seed, "policy": "frozen"} for _ in range(at_a_time)]
        began = time.perf_counter()
        session.generate(3, seed=seed, policy="frozen", batch=at_a_time)
        session.images()
        between = time.perf_counter()
        at_once(port, asked, pause=0.0)
        pairs.append((between - began, time.perf_counter() - between))
    pairs = pairs[1:]  # the session's engines are opened in the first
    own, served = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(after / before for before, after in pairs)
    return {"session_s": round(own, 4), "served_s": round(served, 4), "ratio": round(ratio, 3)}


def check_pictures(bundle: Path, answers: Sequence[Any]) -> Fields:
    """Compare every picture with the session's; refusals are counted by status."""
    from PIL import Image
    from soda_runtime import Session

    session, known, wrong = Session.open(bundle), dict[str, Any](), 0
    for fields, status, body, _ in answers:
        if status != 200:
            continue
        key = json.dumps(fields)
        if key not in known:
            own = {"batch" if name == "n" else name: value for name, value in fields.items()}
            session.generate(**own)
            known[key] = np.clip(np.round(session.images() * 255), 0, 255).astype(np.uint8)
        made = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"])))) for each in body["data"]]
        wrong += not np.array_equal(np.stack(made).reshape(known[key].shape), known[key])
    statuses = collections.Counter(str(status) for _, status, *_ in answers)
    return {"statuses": dict(statuses), "wrong": wrong, "checked_against": len(known)}


def metric(port: int, name: str) -> float:
    """One of GET /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def bench(bundle: Path, batch: int, rounds: int) -> Fields:
    """`soda-export bench` of the same bundle: what no server can be faster than."""
    from soda_export.bench import BenchOptions, bench_bundle

    result = bench_bundle(bundle, BenchOptions(batch=batch, rounds=rounds), lambda done, total: None)
    return {"latency_s": round(result.latency_s, 4), "pictures_per_second": round(batch / result.latency_s, 3)}


def main() -> int:
    """Run all of it and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="one of classes")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9, help="of bench")
    parser.add_argument("--pairs", type=int, default=40, help="requests beside a session's")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(options.client, json.load(sys.stdin))
        return 0
    from soda_export.bench.doctor import describe_machine

    machine = describe_machine()
    result: Fields = {
        "command": " ".join(["python benchmarks/serving.py", *sys.argv[1:]]), "processor": machine.processor,
        "cpus": machine.cores, "load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d"),
        "bench": {str(batch): bench(options.bundle, batch, options.rounds) for batch in (1, options.batch)},
    }  # fmt: skip
    server, port = serve(options.bundle, options.batch)
    requests = make_requests(options.requests, 10)
    result["beside_session"] = {
        str(count): beside_session(options.bundle, port, count, options.pairs) for count in (1, options.batch)
    }
    alike = [{"labels": seed % 10, "seed": seed, "n": 1, "policy": "frozen"} for seed in range(ALIKE)]
    found = {}
    found["clients_alike"], result["clients_alike"] = under_load(options.bundle, port, alike, kills=False)
    found["clients"], result["clients"] = under_load(options.bundle, port, requests, kills=True)
    found["queue_full"] = at_once(port, requests[:BURST])

    def end() -> bool:
        server.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        return True

    found["sigterm"] = at_once(port, requests[:LAST], end)
    result["exit_code"] = server.wait(600)
    for name, answers in found.items():
        result[name] = {**result.get(name, {}), **check_pictures(options.bundle, answers)}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    checks = [result[name] for name in found]
    right = (
        all(not check["wrong"] and set(check["statuses"]) <= {"200", "429", "503"} for check in checks)
        and result["clients"]["statuses"] == {"200": options.requests}
        and "429" in result["queue_full"]["statuses"] and "503" in result["sigterm"]["statuses"]
        and result["exit_code"] == 128 + signal.SIGTERM
    )  # fmt: skip
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
