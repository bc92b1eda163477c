"""A web server on this machine that serves files from memory, and breaks as the first part of their names says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    files: dict[str, bytes]
    asked: list[str | None]  # the Range of each request

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, *_: Any) -> None:
        pass  # who asked has gone away


class Handler(BaseHTTPRequestHandler):
    """page: as a web page; cut: half of it, where it isn't asked for the rest; plain: knows no ranges."""

    server: Server

    def do_GET(self) -> None:
        span, name = self.headers["Range"], self.path.strip("/")
        self.server.asked.append(span)
        content = self.server.files.get(name)
        begin = int(span.removeprefix("bytes=").removesuffix("-")) if span and name != "plain" else 0
        if content is None or begin >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if name == "page" else "binary/octet-stream")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name == "cut" and not begin else content[begin:])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = files, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
