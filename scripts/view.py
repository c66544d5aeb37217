"""Serve a folder of results to browsers on this machine: reports as pages, pyramids by byte ranges.

Viewers on the web read a pyramid from here because every answer allows any origin; the server
listens on the loopback address only, and serves nothing but the folder.
"""

import argparse
import os
import re
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class RangeHandler(SimpleHTTPRequestHandler):
    """Files of a folder, whole or one byte range, readable from any origin."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        span = RANGE.match(self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if span is None or not path.is_file():
            super().do_GET()
            return
        with path.open("rb") as file:
            self._send_range(file, *span.groups())

    def do_OPTIONS(self) -> None:
        self.send_response(HTTPStatus.NO_CONTENT)
        self.send_header("Access-Control-Allow-Headers", "Range")
        self.end_headers()

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", "Content-Range, Content-Length, Accept-Ranges")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A line a tile would bury the address that was printed."""

    def _send_range(self, file: BinaryIO, first: str, last: str) -> None:
        size = os.fstat(file.fileno()).st_size
        if first:
            begin, end = int(first), min(int(last or size - 1), size - 1)
        else:
            begin, end = max(0, size - int(last or 0)), size - 1
        if begin > end:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("Content-Length", str(end - begin + 1))
        self.end_headers()
        file.seek(begin)
        left = end - begin + 1
        while left:
            piece = file.read(min(left, 1 << 20))
            self.wfile.write(piece)
            left -= len(piece)


def serve(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server for the folder, bound but not yet running; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(RangeHandler, directory=str(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a result, or a folder of results")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(
            f"{options.folder} is no folder; `make demo` makes demo/, or name one: make view DIR=out"
        )
    folder = options.folder.resolve()
    if folder.name.endswith(".ome.zarr"):
        folder = folder.parent
    try:
        server = serve(folder, options.port)
    except OSError as error:
        free = 'make view ARGS="--port 0"'
        parser.error(f"port {options.port} cannot be used ({error.strerror}); a free one: {free}")
    address = f"http://127.0.0.1:{server.server_port}"
    print(f"{folder} is at {address}/ for this machine's browsers; Ctrl-C ends it", flush=True)
    for result in sorted(folder.glob("*.ome.zarr")):
        print(f"report   {address}/{result.name}/report/index.html")
        print(f"pyramid  {address}/{result.name}  (any viewer of OME-Zarr)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
