"""A bucket in the process of the test, which can be told to lie, to refuse and to break down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from uuid import uuid4

import boto3
import certifi
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "made-up-secret", "AWS_REGION": "us-east-1"}

Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Fault = Callable[[Request], Response | None]
"""Looks at a request, and answers it in the place of the store, or returns None."""


def error(status: int, code: str, more: str = "") -> Response:
    """Return a refusal as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
    return Response(body, status, content_type="application/xml")


@dataclass
class Server:
    """The store: moto, with faults before it."""

    app: Any
    faults: list[Fault] = field(default_factory=list)
    alterations: list[Callable[[Request, Response], None]] = field(default_factory=list)
    """What is done to answers."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    address: str = ""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        self.requests.append(f"{request.method} {request.full_path.rstrip('?')}")
        for fault in list(self.faults):
            answer = fault(request)
            if answer is not None:
                request.get_data()  # an answer that comes before the end of the request would break the connection
                return answer(environ, start)
        if not self.alterations:
            return self.app(environ, start)  # type: ignore[no-any-return]
        response = Response.from_app(self.app, environ)
        for alter in self.alterations:
            alter(request, response)
        return response(environ, start)

    def heal(self) -> None:
        """No fault any more."""
        self.faults.clear()
        self.alterations.clear()
        self.requests.clear()

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which programs find it."""
        return {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "NO_PROXY": "127.0.0.1",
            "SSL_CERT_FILE": certifi.where(),  # obstore makes no client, not even for http://, that trusts nobody
        }

    def client(self) -> Any:
        """Return Amazon's own client."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.address}",
            region_name="us-east-1",
            aws_access_key_id="other",
            aws_secret_access_key="other",
            config=Config(retries={"max_attempts": 1}, proxies={}),
        )

    def make(self, bucket: str, *, is_versioned: bool = False) -> Any:
        """Make a bucket; return Amazon's client."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        if is_versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return client


class Bucket:
    """An empty bucket, and a folder in it."""

    def __init__(self, server: Server, folder: str) -> None:
        self.server = server
        self.name = f"bucket-{uuid4().hex[:12]}"
        self.client = server.make(self.name)
        self.folder = folder
        self.url = f"s3://{self.name}/{folder}"

    def content(self) -> dict[str, bytes]:
        """Return every object in the folder, by its name."""
        return content_of(self.client, self.name, f"{self.folder}/")


def content_of(client: Any, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Return every object of a bucket below a prefix, by the rest of its key."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {
        key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
    }


@contextmanager
def bucket_server() -> Iterator[Server]:
    """Run a store for as long as the context lasts. All of one process have the same buckets."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Server(DomainDispatcherApplication(create_backend_app))
    listener = make_server("127.0.0.1", 0, server, threaded=True)
    server.address = f"127.0.0.1:{listener.server_port}"
    thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
