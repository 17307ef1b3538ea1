#!/usr/bin/env python3
"""Prints a line for each alert that Alertmanager posts, so that the trial stacks have somebody to wake.

`docker-compose up` and `make stack` run it where alertmanager.yml posts to. It is no pager: put your own
receivers into alertmanager.yml, and leave this out.

    receiver.py [PORT]   default 9095, on loopback only
"""
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 1 << 20  # bytes; Alertmanager's posts have a few kilobytes
PRINTING = threading.Lock()  # a post is a thread, and print() writes word by word


class Receiver(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200)  # the health check's

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= LIMIT:
                return self.answer(413)
            lines = [self.line(alert) for alert in json.loads(self.rfile.read(length))["alerts"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return self.answer(400)
        with PRINTING:
            sys.stdout.write("".join(lines))
            sys.stdout.flush()
        self.answer(200)

    def line(self, alert):
        labels = alert["labels"]
        summary = alert.get("annotations", {}).get("summary", "")
        return f"{self.path.strip('/')} {alert['status']} {labels['alertname']} {labels.get('task', '-')} {summary}\n"

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass  # a line for each alert is enough


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9095
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    except OSError as error:
        sys.exit(f"receiver: cannot listen on 127.0.0.1:{port}: {error}")
    print(f"alerts are printed here: they are posted to 127.0.0.1:{port}", flush=True)
    server.serve_forever()
