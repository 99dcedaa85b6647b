"""An HTTP server of files that answers as ill as a test tells it to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files`, by the last part of a path."""

    breaks = 0
    """How many answers stop in the middle."""
    ranges = True
    """Whether a Range request gets 206, and not 200 and everything."""
    shift = 0
    """How many bytes the answer to a Range request is off."""
    failures: tuple[int, ...] = ()
    """Status codes of the first answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.seen: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        asked = self.headers.get("Range")
        server.seen.append((self.path, asked))
        content = server.files.get(self.path.rpartition("/")[2])
        start, status = 0, 200
        if server.failures:
            status, *rest = server.failures
            server.failures = tuple(rest)
        elif content is None:
            status = 404
        elif asked and server.ranges:
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match
            start = int(match[1]) + server.shift
            status = 206 if start < len(content) else 416
        content = content or b""
        body = content[start:] if status in (200, 206) else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if server.breaks and body:
            server.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
