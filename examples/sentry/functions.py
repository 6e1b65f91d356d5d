"""A server of functions: a program starts once, and answers each HTTP request in a fork of it, a sandbox of its own.

python examples/sentry/functions.py ROOT PROGRAM [ARGUMENT ...]

The program prints `ready` when it has started. Then it reads a line of JSON, the body of a POST request, and prints its
answer as another. Statuses: 400: the body is no JSON; 413: it is too long; 502: the program has failed; 503: there is
no fork; 504: it took too long.
"""

import argparse
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore
from typing import Any

from pyvmm_sentry import ProgramError, ProgramTimeout, SentrySandbox, Template
from vmm import VmmError

MOST = 1 << 20


class Handler(BaseHTTPRequestHandler):
    template: Template
    free: BoundedSemaphore
    seconds: float
    timeout = 30  # for each read from the client

    def result(self) -> tuple[int, Any]:
        try:
            size = int(self.headers["Content-Length"])
            if not 0 <= size <= MOST:
                return 413, {"error": f"more than {MOST} bytes"}
            request = json.loads(self.rfile.read(size))
        except (TypeError, ValueError, RecursionError):
            return 400, {"error": "the body is no JSON"}
        try:
            with self.free, self.template.fork() as child:
                return 200, child.call(request, self.seconds)
        except ProgramTimeout as error:
            return 504, {"error": str(error)}
        except ProgramError as error:
            return 502, {"error": str(error), "stderr": error.stderr.decode(errors="replace")}
        except VmmError as error:
            return 503, {"error": str(error)}

    def do_POST(self) -> None:
        status, value = self.result()
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer each HTTP request in a fork of a program.")
    parser.add_argument("--port", type=int, default=8080, help="of 127.0.0.1; 0: any (default 8080)")
    parser.add_argument("--workers", type=int, default=4, help="forks at one time (default 4)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for a request (default 10)")
    parser.add_argument("root", help="a directory of the host")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="the program in it, and its arguments")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Handler.free, Handler.seconds = BoundedSemaphore(options.workers), options.timeout
    base = SentrySandbox(options.root, options.program).run(60, until="ready")
    with base.freeze() as Handler.template, ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (VmmError, OSError, ValueError) as error:
        sys.exit(f"functions: {error}")
