#!/usr/bin/env python3
"""A server under load and abuse: many clients, clients that do not read, do not write or go away, bodies that
are too large or no JSON. It stays, mixes no answers, and keeps nothing.

usage: check_abuse.py WUNENG [quick]
quick: without what takes long in a build with a sanitizer.
"""
import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time

from models import byte_model
from server import HEAD, Server, run

CLIENTS = 24 if "quick" in sys.argv[2:] else 64
PLAIN = b"/v1/completions"
GROWTH = 600 << 20  # bytes by which a server may be larger after all of it; sanitizers keep freed memory


def together(action, items):
    """[action(item)] by a thread each; an exception of one is its result."""
    results = [None] * len(items)

    def run(i):
        try:
            results[i] = action(items[i])
        except Exception as e:  # noqa: BLE001 the caller looks at it
            results[i] = e
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def raw(server, data, timeout=30):
    """What comes back, until the server closes the connection."""
    with server.socket(timeout) as s:
        try:
            s.sendall(data)
        except OSError:
            pass  # it may close the connection before it has read all
        parts = []
        try:
            while part := s.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def post(body, path=PLAIN, close=True):
    head = HEAD % path + (b"Connection: close\r\n" if close else b"")
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def memory(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmRSS"))


def files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def check_clients(server, rng):
    """Every answer is the one that the same request has alone, whatever runs beside it."""
    requests = []
    for i in range(CLIENTS):
        prompt = "".join(rng.choice("abcdefgh é\n") for _ in range(rng.randrange(1, 300)))
        requests.append((i % 3, dict(prompt=f"{i} {prompt}", max_tokens=rng.randrange(1, 60), seed=i,
                                     temperature=(0, 1)[i % 2], logprobs=1, echo=i % 4 == 0,
                                     stop=["a", "é"][:i % 3])))

    def ask(request):
        kind, body = request
        if kind == 0:
            events = server.events("/v1/completions", **body)
            return "".join(e["choices"][0]["text"] for e in events[:-1])
        choice = server.completion(**body)["choices"][0]
        return choice["text"] if kind == 1 else choice

    alone = [ask(request) for request in requests]
    beside = together(ask, requests)
    same = sum(a == b for a, b in zip(alone, beside))
    for a, b in zip(alone, beside):
        if a != b:
            print(f"alone {str(a)[:100]!r}\nbeside {str(b)[:100]!r}")
    yield f"{CLIENTS} clients: {same} have the answer that they have alone", same == CLIENTS
    yield "answers differ", len({json.dumps(a) for a in alone}) > CLIENTS / 2


def check_slow(server):
    """Clients that do not read, or hardly; that write their request byte by byte, or not to the end."""
    # More than the system's buffers hold.
    body = json.dumps({"prompt": "a", "n": 8, "max_tokens": 1500, "stream": True, "logprobs": 20}).encode()
    whole = json.dumps({"prompt": ["a" * 1500] * 8, "max_tokens": 0, "logprobs": 20, "echo": True}).encode()
    before = server.metrics()["abandoned_total"]
    silent = []
    for data in (body, body, whole):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((server.host, server.port))
        s.sendall(post(data))
        silent.append(s)
    partial = [server.socket() for _ in range(3)]
    partial[0].sendall(HEAD % PLAIN)
    partial[1].sendall(HEAD % PLAIN + b"Content-Length: 1000\r\n\r\n{")
    dribbles = []

    def dribble():
        for i in range(200):
            partial[2].sendall(b"GET /health HTTP/1.1\r\nX: " [i % 24:i % 24 + 1] or b"x")
            time.sleep(0.05)
    begin = time.monotonic()
    try:
        dribble()
    except OSError as e:
        dribbles.append(e)
    yield "a request that comes byte by byte is not waited for", dribbles and time.monotonic() - begin < 9
    yield "other clients are served meanwhile", server.get("/health")[0] == 200
    for s in partial[:2]:
        s.settimeout(20)
        try:
            ended = s.recv(100) == b""
        except ConnectionError:
            ended = True
        yield "neither is one that does not end", ended
    deadline = time.monotonic() + 150
    while server.metrics()["abandoned_total"] < before + 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    yield "answers that nobody reads are given up", server.metrics()["abandoned_total"] >= before + 3
    for s in silent + partial:
        s.close()


def check_cuts(server, rng):
    """Connections that end at any byte, with and without a reset."""
    body = json.dumps({"prompt": "cut", "max_tokens": 2000, "stream": True}).encode()
    data = post(body)

    def cut(i):
        s = server.socket()
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.sendall(data[:rng.randrange(len(data))] if i % 3 else data)
        if i % 6 == 0:
            s.recv(200)
        s.close()
    failures = [r for r in together(cut, list(range(60))) if r is not None]
    yield "60 connections are cut at any byte", not failures
    yield "nothing of them is left", server.settled()


def check_large(server):
    for path in (PLAIN, b"/tokenize", b"/nowhere"):
        answer = raw(server, HEAD % path + b"Content-Length: %d\r\n\r\n" % (1 << 30) + b"[" * 100000)
        yield f"1 GB announced to {path.decode()} is refused", status_of(answer) == 413
    sent = 0
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    with server.socket(20) as s:
        s.sendall(HEAD % PLAIN + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 1 << 30:
                s.sendall(chunk)
                sent += 1 << 20
        except OSError:
            pass
    yield f"of 1 GB in chunks {sent >> 20} MB are taken", sent < 1 << 30
    answer = raw(server, HEAD % PLAIN + b"X: " + b"y" * 100000 + b"\r\n\r\n")
    yield "a header of 100 kB is refused", status_of(answer) == 431
    answer = raw(server, post(json.dumps({"prompt": [1] * 1000000}).encode()))
    yield "a prompt of a million tokens is refused", status_of(answer) == 400 and b"context" in answer


def check_malformed(server, rng):
    deep = b'{"prompt": ' + b"[" * 200000
    bodies = [b"", b"{", b"null", b"{}", b"[]", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', deep,
              deep + b"]" * 200000 + b"}", b'{"prompt": 1e400}', b'{"prompt": [1e400]}', b'{"prompt": nan}',
              b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a"} {}', b"\x00" * 100,
              b"{" + b'"a":1,' * 50000, b"{" + b",".join(b'"k%d":0' % i for i in range(300000)) + b"}",
              b'{"prompt": [' + b"9" * 1000 + b"]}",
              b'{"prompt": [[[1]]]}', b'{"prompt": "a", "stop": {"a": 1}}', b'{"prompt": "a", "n": true}']
    begin = time.monotonic()
    for body in bodies:
        for path in (PLAIN, b"/v1/chat/completions", b"/tokenize", b"/detokenize"):
            answer = raw(server, post(body, path))
            if status_of(answer) != 400 or b'{"error":{"message":"' not in answer:
                yield f"{path.decode()} with {body[:40]}: status 400", False
    seconds = time.monotonic() - begin
    yield f"{len(bodies)} bodies that are no requests are refused ({seconds:.1f} s)", seconds < 20
    for line in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET /health HTTP/9.9\r\n\r\n",
                 b"\x16\x03\x01\x02\x00\x01\x00" * 9, b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
                 HEAD % PLAIN + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n{}",
                 HEAD % PLAIN + b"Content-Length: -5\r\n\r\n{}",
                 HEAD % PLAIN + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}"):
        answer = raw(server, line + b"\r\n\r\n")
        yield f"no HTTP: {line[-40:]}", status_of(answer) == 400
    good = post(b'{"prompt": "a", "max_tokens": 1}')

    def noise(_):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return raw(server, bytes(data) + b"\r\n\r\n", timeout=10)
    answers = together(noise, list(range(40)))
    yield "requests with random bytes", all(isinstance(a, bytes) for a in answers)


def check_full(model):
    """More sequences and connections than there may be."""
    with Server(model, "--max-sequences", "2", "--max-queue", "2", "--max-connections", "20") as server:
        long = dict(prompt="a", max_tokens=3000, temperature=0)
        statuses = [r[0] for r in together(lambda _: server.post("/v1/completions", long), list(range(12)))]
        yield (f"a full queue has status 429 ({statuses.count(200)} served)",
               set(statuses) == {200, 429} and statuses.count(200) >= 4)
        status, answer = server.post("/v1/completions", {"prompt": ["a"] * 5})
        yield ("a request that never fits has status 400",
               status == 400 and "at most 4" in answer["error"]["message"])
        idle = [server.socket() for _ in range(30)]
        refused, end = [], time.monotonic() + 20
        while len(refused) < 10 and time.monotonic() < end:
            refused = select.select(idle, [], [], 0.1)[0]
        answers = [s.recv(1000) for s in refused]
        yield (f"connections beyond 20 have status 503 ({len(answers)} of 30)",
               len(answers) >= 10 and all(a.startswith(b"HTTP/1.1 503") for a in answers))
        for s in idle:
            s.close()
        time.sleep(0.5)
        yield "all is free again", server.settled()


def check_failure(root):
    """A model whose logits are not finite."""
    with Server(byte_model(os.path.join(root, "infinite"), 1e38)) as server:
        status, answer = server.post("/v1/completions", {"prompt": "a"})
        yield ("a failure of the model has status 500",
               status == 500 and "finite" in answer["error"]["message"])
        events = server.events("/v1/completions", prompt=["a", "b"])
        yield "in a stream it is the last event", "finite" in events[-1]["error"]["message"]
        yield "the server stays", server.settled() and server.get("/health")[0] == 200


def check_token(model, root):
    path = os.path.join(root, "token")
    with open(path, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("0123456789abcdef")
    with Server(model, "--token-file", path) as server:
        tokens = ["", "x" * 5000, "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0"]
        statuses = together(lambda i: server.request("POST", "/v1/completions", b"[" * 100000, {
            **server.headers, "Authorization": "Bearer " + tokens[i % len(tokens)]})[0], list(range(40)))
        yield "wrong tokens are refused, whatever follows", set(statuses) == {401}
        server.headers["Authorization"] = "Bearer 0123456789abcdef"
        taken = server.completion(prompt="a", max_tokens=1)["choices"]
        yield "and the right one is still taken", len(taken) == 1 and server.settled()


def checks(root, quick):
    model = byte_model(os.path.join(root, "bytes"))
    rng = random.Random(1)
    with Server(model, "--read-timeout", "3", "--write-timeout", "3") as server:
        yield from check_clients(server, rng)
        server.settled()
        size, open_files = memory(server), files(server)
        yield from check_cuts(server, rng)
        yield from check_malformed(server, rng)
        if not quick:
            yield from check_slow(server)
            yield from check_large(server)
            yield from check_clients(server, rng)
        yield "no connection, sequence or request is left", server.settled()
        grown = memory(server) - size
        yield f"no file is left open, and memory has not grown ({grown >> 20} MB)", (
            files(server) <= open_files + 2 and grown < GROWTH)  # 2: connections that are just being closed
        code, _ = server.stop()
        errors = server.process.stderr.read()
        yield f"the server has stayed, without an error {errors[:300]}", code == 0 and "error" not in errors
    if not quick:
        yield from check_full(model)
    yield from check_failure(root)
    yield from check_token(model, root)


def main():
    return run(lambda root: checks(root, "quick" in sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
