"""A `wuneng serve` for the tests of this folder, and a client of the standard library."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import ranks as launched  # noqa: E402
from checks import run  # noqa: E402, F401

PROGRAM = os.path.abspath(sys.argv[1])
HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
JSON = {"Content-Type": "application/json"}


class Server:
    """with Server(model, ...) as s: a server on a free port of this machine; several ranks by mpirun."""

    def __init__(self, model, *options, ranks=1):
        options = ("--port", "0", "--device", "cpu", *options)
        command = launched.command(ranks, PROGRAM, "serve", model, *options)
        self.process = subprocess.Popen(command, env=launched.environment(), text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.first = self.process.stdout.readline()
        found = re.search(r"http://(.*):(\d+)/v1", self.first)
        if not found:
            raise RuntimeError(f"{' '.join(command)}: {self.first}{self.process.communicate()[1]}")
        self.host, self.port, self.headers = found[1].strip("[]"), int(found[2]), dict(JSON)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self, number=signal.SIGTERM):
        """(exit code, seconds until it has ended)"""
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, time.monotonic() - begin

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    def socket(self, timeout=60):
        return socket.create_connection((self.host, self.port), timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, self.headers if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body):
        """(status, JSON)"""
        status, _, data = self.request("POST", path, body)
        return status, json.loads(data)

    def completion(self, path="/v1/completions", **body):
        status, answer = self.post(path, body)
        if status != 200:
            raise RuntimeError(f"{path} {body}: status {status}: {answer}")
        return answer

    def events(self, path, **body):
        """The objects of a stream; the last one is the text [DONE]."""
        status, headers, data = self.request("POST", path, {**body, "stream": True})
        if status != 200 or headers["Content-Type"] != "text/event-stream":
            raise RuntimeError(f"{path} {body}: status {status}: {data}")
        lines = data.decode().split("\n\n")
        if lines.pop() or not all(line.startswith("data: ") for line in lines):
            raise RuntimeError(f"{path}: not server-sent events: {data[:300]}")
        values = [line[len("data: "):] for line in lines]
        return [json.loads(v) if v != "[DONE]" else v for v in values]

    def metrics(self):
        lines = self.get("/metrics")[2].decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name.removeprefix("wuneng_"): float(value) for name, value in pairs}

    def settled(self, seconds=20):
        """Whether no sequence runs or waits, and no connection but this one is open, after some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            m = self.metrics()
            if (m["connections"], m["sequences_running"], m["sequences_waiting"]) == (1, 0, 0):
                return True
            time.sleep(0.1)
        print(m)
        return False
