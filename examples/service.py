"""A web service of one's own around a bundle: GET /?prompt=...&seed=... answers with a picture.

    soda-export build --model shapes --budget 8
    python examples/service.py engines/shapes-b8-ort
    curl "localhost:8080/?prompt=a+red+circle&seed=1" --output circle.png

A session plays one request at a time, so each request has its own; the weights and engines are in memory once.
`soda-export serve` (docs/serving.md) does more: OpenAI's images API, batches, a bounded queue, metrics.
"""

import io
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from soda_runtime import Bundle, RequestError


def make_server(folder: str, port: int) -> ThreadingHTTPServer:
    """A server that is not yet serving; port 0 takes a free one."""
    bundle = Bundle.open(folder)

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
            try:
                if not asked.keys() <= {"prompt", "seed"} or not asked.get("prompt"):
                    raise RequestError("ask for /?prompt=WORDS&seed=NUMBER")
                if not asked.get("seed", "0").isdecimal():
                    raise RequestError(f"seed={asked['seed']}: must be a number, 0 or more")
                with bundle.session() as session:
                    session.generate(prompt=asked["prompt"], seed=int(asked.get("seed", "0")))
                    status, kind, body = 200, "image/png", png(session.images()[0])
            except RequestError as error:
                status, kind, body = 400, "text/plain", f"{error}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Pictures)


def png(image) -> bytes:
    """[H, W, 3] in 0..1 as a file."""
    file = io.BytesIO()
    Image.fromarray((image * 255).round().astype("uint8")).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/service.py BUNDLE")
    print("http://localhost:8080/?prompt=...")
    make_server(sys.argv[1], 8080).serve_forever()
