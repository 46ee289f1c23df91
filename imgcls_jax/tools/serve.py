"""Answers images sent by HTTP, in batches, by a network that `tools.export` wrote.

  python -m imgcls_jax.tools.serve --exported FOLDER [--port 8000]
  curl --data-binary @IMAGE 'http://127.0.0.1:8000/predict?top_k=3'

`POST /predict` takes the bytes of one image file and answers {"predictions": [{"class", "probability"},
...]}, the likeliest first; with `--unknown_below`, or of an image of several labels, there may be none. `GET
/health` is 200 while images are answered, `GET /metrics` is for Prometheus. What arrives while the network is
busy is its next batch. Errors are {"error": ...}: 400 a wrong query, 408 a body that came too slowly, 413 too
many bytes, 422 no image that can be read, 503 too many images at a time or too late an answer (ask again).

It listens to this machine alone unless `--host` says otherwise, and knows neither passwords nor TLS: towards
an open network a proxy belongs in front. Exit status: 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from imgcls_jax.runtime.command import (
    add_batch_size,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    share,
    workdir_path,
)
from imgcls_jax.runtime.listening import add_address, listen, serve, server_of, url
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import prometheus_client as prometheus
    import uvicorn  # noqa: F401  its lack is told before anything is compiled
    from PIL import Image
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from imgcls_jax.data.image_files import decoded, operations_for_files
    from imgcls_jax.inference.batching import Batcher, Closed, Full, sizes_up_to
    from imgcls_jax.inference.export import Exported, read
    from imgcls_jax.inference.named_classes import THRESHOLD, chosen_by, named_classes

MOST_CONNECTIONS = 1000
RETRY = {"retry-after": "1"}  # seconds
GONE = 499  # nginx's status for a client that did not wait; nobody receives it
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)  # the buckets of latency


class Limits(NamedTuple):
    """What one request, and all at a time, may take.

    Attributes:
      num_bytes: of a body.
      queue: images at a time, from the first byte of a body to its answer.
      seconds: from the first byte to the answer.
    """

    num_bytes: int
    queue: int
    seconds: float


class Refused(Exception):
    """A request that gets no prediction: status, and what it is told."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Service:
    """The three routes, over one network.

    Args:
      network: of an export.
      limits: of requests.
      batch_size: images at a time.
      top_k, threshold, unknown_below: as of `named_classes`, where the query does not say another top_k.
    """

    def __init__(
        self,
        network: Exported,
        limits: Limits,
        *,
        batch_size: int,
        top_k: int | None = None,
        threshold: float | None = None,
        unknown_below: float = 0.0,
    ):
        self.network, self.limits = network, limits
        self.top_k, self.threshold, self.unknown_below = top_k, threshold, unknown_below
        self.operations = operations_for_files(network.eval_transforms, network.image_shape)
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decode")  # Pillow lets go of Python's lock
        self.at_hand = 0
        self.registry = prometheus.CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry, "namespace": "imgcls"}
        self.requests = prometheus.Counter("requests", "Answers of /predict.", ["status"], **named)
        self.seconds = prometheus.Histogram(
            "request_seconds", "From the first byte to the answer, of status 200.", buckets=SECONDS, **named
        )
        self.batches = prometheus.Histogram(
            "batch_images", "Images of each batch.", buckets=sizes_up_to(batch_size), **named
        )
        prometheus.Gauge("at_hand", "Images being read or answered.", **named).set_function(
            lambda: self.at_hand
        )
        self.batcher = Batcher(
            lambda images: network.function(images)["probabilities"],
            network.image_shape,
            batch_size=batch_size,
            most_waiting=limits.queue,
            observe=self.batches.observe,
        )

    def app(self) -> Starlette:
        """Returns the application."""
        return Starlette(
            routes=[
                Route("/predict", self.predict, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
            ]
        )

    async def health(self, request: Request) -> Response:
        """200 while images are answered, else 503."""
        alive = self.batcher.alive
        return JSONResponse({"status": "ok" if alive else "ended"}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """What was counted since the start, in the text form of Prometheus."""
        return Response(prometheus.generate_latest(self.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    async def predict(self, request: Request) -> Response:
        """Answers one image."""
        begun, status = time.perf_counter(), GONE
        try:
            answer, status = await self._admitted(request), 200
            self.seconds.observe(time.perf_counter() - begun)
            return JSONResponse(answer)
        except Refused as refused:
            status = refused.status
            return JSONResponse({"error": str(refused)}, status, RETRY if status == 503 else None)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:  # what the network raised, such as a lack of memory
            status = 500
            return JSONResponse({"error": f"the network failed: {type(error).__name__}"}, 500)
        finally:
            self.requests.labels(status).inc()

    async def _admitted(self, request: Request) -> dict[str, Any]:
        top_k = self._top_k(request)
        if self.at_hand >= self.limits.queue:
            raise Refused(503, f"{self.limits.queue} images are at hand; ask again")
        self.at_hand += 1
        late = Refused(408, f"the image did not arrive within {self.limits.seconds:g} seconds")
        try:
            async with asyncio.timeout(self.limits.seconds):
                content = await self._body(request)
                late = Refused(503, f"no answer within {self.limits.seconds:g} seconds; ask again")
                row = await self._row(content)
        except TimeoutError:
            raise late from None
        finally:
            self.at_hand -= 1
        top_k, threshold = chosen_by(top_k, self.threshold, multi_label=self.network.multi_label)
        options = {"threshold": threshold, "unknown_below": self.unknown_below}
        return {"predictions": named_classes(row, self.network.class_names, top_k, **options)}

    def _top_k(self, request: Request) -> int | None:
        text = request.query_params.get("top_k")
        if text is None:
            return self.top_k
        if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9 and int(text)):
            raise Refused(400, "top_k is a whole number of at least 1")
        return int(text)

    async def _body(self, request: Request) -> bytes:
        most = self.limits.num_bytes
        told = request.headers.get("content-length", "0")  # h11 lets digits through alone
        content = bytearray()
        if int(told) <= most:
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    break
            else:
                return bytes(content)
        raise Refused(413, f"an image file has at most {most} bytes here")

    async def _row(self, content: bytes) -> Any:
        try:
            image = await asyncio.get_running_loop().run_in_executor(
                self.decoders, decoded, content, self.operations, tuple(self.network.image_shape)
            )
            return await asyncio.wrap_future(self.batcher.submit(image))
        except ValueError as error:
            raise Refused(422, str(error)) from error
        except (Full, Closed) as error:
            raise Refused(503, f"{error}; ask again") from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("serve", __doc__)
    parser.add_argument("--exported", type=workdir_path, required=True, help="folder that tools.export wrote")
    add_address(parser, 8000)
    add_batch_size(parser)
    parser.add_argument("--queue", type=at_least_one, default=128, help="images at a time (default 128)")
    parser.add_argument(
        "--megabytes", type=at_least_one, default=16, help="of an image file, at most (default 16)"
    )
    parser.add_argument(
        "--megapixels", type=at_least_one, default=64, help="of an image, at most (default 64)"
    )
    parser.add_argument(
        "--seconds", type=at_least_one, default=10, help="from a first byte to the answer (default 10)"
    )
    parser.add_argument(
        "--top_k", type=at_least_one, help="classes to name (default 1; of several labels all)"
    )
    parser.add_argument(
        "--threshold",
        type=share,
        help=f"name classes from this probability on (default: {THRESHOLD} of several labels)",
    )
    parser.add_argument(
        "--unknown_below",
        type=share,
        default=0.0,
        help="name no class where the largest probability is less",
    )
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    network = read(arguments.exported)
    listening = listen(arguments.host, arguments.port)  # a taken port is told before anything is compiled
    Image.MAX_IMAGE_PIXELS = arguments.megapixels * 10**6  # what data/decoding.py goes by
    service = Service(
        network,
        Limits(arguments.megabytes * 10**6, arguments.queue, arguments.seconds),
        batch_size=arguments.batch_size,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        unknown_below=arguments.unknown_below,
    )
    service.batcher.start()
    print(printable(f"serving {arguments.exported} at {url(listening)}"), flush=True)
    server = server_of(service.app(), most_connections=MOST_CONNECTIONS, seconds_to_end=arguments.seconds + 1)
    try:
        serve(server, listening)
    finally:
        service.batcher.close()
    return 0


if __name__ == "__main__":
    exit_with(main)
