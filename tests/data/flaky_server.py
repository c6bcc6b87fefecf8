"""An HTTP server on the loopback interface that misbehaves as it is told to."""

import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer:
    """Serves `files` (path to bytes), each request as the next of `behaviors` says, then as it should.

    Behaviors are functions of (handler, content, start): the request's handler, the file, and the first byte that was
    asked for by a range, or None. `requests` has a (path, start) for each request that came.
    """

    def __init__(self, files):
        self.files, self.behaviors, self.requests = dict(files), deque(), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                header = self.headers.get("Range")
                start = int(header.removeprefix("bytes=").removesuffix("-")) if header else None
                outer.requests.append((self.path, start))
                behave = outer.behaviors.popleft() if outer.behaviors else serve
                content = outer.files.get(self.path)
                if content is None:
                    self.send_error(404)
                else:
                    behave(self, content, start)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def send(handler, content, start, *, status=None, said_range=None, said_length=None, sent=None):
    """Send a file or the rest of it, with lies where they are given."""
    body = content[start or 0 :]
    partial = start is not None if status is None else status == 206
    handler.send_response(status or (206 if partial else 200))
    if partial:
        whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", whole if said_range is None else said_range)
    handler.send_header("Content-Length", str(len(body) if said_length is None else said_length))
    handler.end_headers()
    handler.wfile.write(body if sent is None else sent)
    handler.close_connection = True


def serve(handler, content, start):
    """As a good server does."""
    send(handler, content, start)


def drop_after(size):
    """The connection ends after `size` bytes of those that were announced."""

    def behave(handler, content, start):
        send(handler, content, start, sent=content[start or 0 :][:size])

    return behave


def drop_at_once(handler, content, start):
    """The connection ends before any answer."""
    handler.close_connection = True


def ignore_range(handler, content, start):
    """The whole file, whatever was asked for."""
    send(handler, content, None)


def say_wrong_range(handler, content, start):
    """A part from another place than was asked for, honestly so."""
    send(handler, content[: len(content)], start, said_range=f"bytes 0-{len(content) - 1}/{len(content)}")


def lie_about_range(handler, content, start):
    """Bytes from the start of the file, said to be those that were asked for."""
    rest = len(content) - (start or 0)
    send(handler, content, start, sent=content[:rest])


def say_no_range(handler, content, start):
    """416: the range asked for cannot be had."""
    handler.send_error(416)


def fail_with(status):
    def behave(handler, content, start):
        handler.send_error(status)

    return behave


def redirect_to(url):
    def behave(handler, content, start):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def truncate(size):
    """A shorter file, consistently."""

    def behave(handler, content, start):
        send(handler, content[:size], start)

    return behave


def append(extra):
    """More than the file, of a length that is not announced."""

    def behave(handler, content, start):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content + extra)
        handler.close_connection = True

    return behave
