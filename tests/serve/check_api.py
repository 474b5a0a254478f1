#!/usr/bin/env python3
"""What a server answers: log-probabilities against `wuneng logits`, texts against `wuneng generate`, streams
against whole answers, ids against PyPI's tokenizers (golden), refusals, tokens, stopping.

usage: check_api.py WUNENG
"""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
from models import LLAMA3, TOKENIZER, begun_model, byte_model, chat_model
from server import HEAD, PROGRAM, Server, run

TEMPLATE = ("--chat-template", "Qwen2.5")
PROMPTS = [[5, 90, 300, 17, 2], [44], [600, 601, 3, 3, 3, 80, 81, 82, 9, 1, 0], [699, 10]]
WITHIN = 1e-4


def wuneng(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wuneng {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode(errors="replace")


def log_softmax(model, tokens, root):
    """[T, vocabulary], in f64 from the logits of a whole sequence, without a cache."""
    source, out = (os.path.join(root, name) for name in ("tokens.json", "logits.h5"))
    with open(source, "w") as f:
        json.dump(tokens, f)
    wuneng("logits", model, "--tokens", source, "--out", out, "--device", "cpu")
    with h5py.File(out, "r") as f:
        x = np.float64(f["logits"][()])
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def check_logprobs(server, model, root):
    answer = server.completion(prompt=PROMPTS, max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1234,
                               model="chat")
    yield "a batch has its choices in order", [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    worst, greedy, forms = 0, True, True
    for prompt, choice in zip(PROMPTS, answer["choices"]):
        expected, found = log_softmax(model, prompt, root), choice["logprobs"]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        forms &= all(len(found[name]) == len(prompt) + 1 for name in names)
        forms &= found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        for t, token in enumerate(prompt[1:], 1):
            worst = max(worst, abs(found["token_logprobs"][t] - expected[t - 1, token]),
                        abs(max(found["top_logprobs"][t].values()) - expected[t - 1].max()))
        greedy &= abs(found["token_logprobs"][-1] - expected[-1].max()) <= WITHIN
        alone = server.completion(prompt=prompt, max_tokens=1, temperature=0, logprobs=1, echo=True)
        forms &= alone["choices"][0] == {**choice, "index": 0}
    yield f"log-probabilities are those of wuneng logits (largest difference {worst:.1e})", worst <= WITHIN
    yield "the token that follows is the most probable one", greedy
    yield "lists have an entry for each token, and batches do not matter", forms
    scored = server.completion(prompt=PROMPTS[2], max_tokens=0, logprobs=3, echo=True)["choices"][0]
    yield ("max_tokens 0 scores the prompt alone",
           len(scored["logprobs"]["tokens"]) == len(PROMPTS[2]) and scored["finish_reason"] == "length")
    best = np.sort(log_softmax(model, PROMPTS[2], root)[3])[::-1][:3]
    top = sorted(scored["logprobs"]["top_logprobs"][4].values(), reverse=True)[:3]
    yield "the most probable tokens are right", np.abs(best - top).max() <= WITHIN


def check_texts(server, model):
    texts = [c["text"] for c in server.completion(prompt=["So it", "The state"], max_tokens=30,
                                                  temperature=0)["choices"]]
    greedy = [wuneng("generate", model, "--prompt", p, "--tokens", "30", "--temperature", "0",
                     *TEMPLATE)[len(p):-1] for p in ("So it", "The state")]
    yield "greedy texts are those of wuneng generate", texts == greedy and len(set(texts)) == 2
    chat = server.completion("/v1/chat/completions", max_tokens=30, temperature=0,
                             messages=[{"role": "user", "content": "Why?"}])
    message = chat["choices"][0]["message"]
    answer = wuneng("generate", model, "--chat", "--prompt", "Why?", "--tokens", "30", "--temperature", "0",
                    *TEMPLATE)[:-1]
    yield "so are answers in a chat", message["content"] == answer and message["role"] == "assistant"
    parts = server.completion("/v1/chat/completions", max_tokens=30, temperature=0, messages=[
        {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]}])
    yield "a content in parts is the same", parts["choices"][0]["message"] == message
    why = [{"role": "user", "content": "Why?"}]
    status, refusal = server.post("/v1/chat/completions", {
        "messages": why, "chat_template_kwargs": {"enable_thinking": False}})
    yield ("a variable that the template does not have is refused",
           status == 400 and "enable_thinking: expected none" in refusal["error"]["message"])
    hot = dict(max_tokens=12, temperature=1.3)
    several = server.completion(prompt=["So it", "The"], n=3, seed=7, **hot)["choices"]
    alone = [server.completion(prompt=p, seed=7 + i, **hot)["choices"][0]["text"]
             for p in ("So it", "The") for i in range(3)]
    yield "n choices are those of n seeds", [c["text"] for c in several] == alone and len(set(alone)) > 4
    unseeded = {server.completion(prompt="So it", max_tokens=12)["choices"][0]["text"] for _ in range(4)}
    yield "without a seed texts differ", len(unseeded) > 1
    usage = server.completion(prompt=[[1, 2, 3], [4]], max_tokens=6, n=2, temperature=0)["usage"]
    yield "usage counts tokens", usage["prompt_tokens"] == 4 and usage["completion_tokens"] <= 24


def check_streams(server):
    for path, body, piece in (
            ("/v1/completions", dict(prompt=["So it", "The"], n=2), lambda c: c["text"]),
            ("/v1/completions", dict(prompt="Q: né\n", echo=True), lambda c: c["text"]),
            ("/v1/chat/completions", dict(messages=[{"role": "user", "content": "Why?"}], n=2),
             lambda c: c["delta"].get("content", ""))):
        chat = "chat" in path
        body |= dict(max_tokens=25, seed=3)
        body |= dict(logprobs=True, top_logprobs=2) if chat else dict(logprobs=2)
        whole = server.completion(path, **body)["choices"]
        events = server.events(path, stream_options={"include_usage": True}, **body)
        texts, scored, finish = [""] * len(whole), [[] for _ in whole], [None] * len(whole)
        for event in events[:-2]:
            for choice in event["choices"]:
                i = choice["index"]
                texts[i] += piece(choice)
                finish[i] = choice["finish_reason"]
                if choice["logprobs"]:
                    scored[i] += choice["logprobs"]["content" if chat else "tokens"]
        expected = [c["message"]["content"] if chat else c["text"] for c in whole]
        names = [c["logprobs"]["content" if chat else "tokens"] for c in whole]
        what = f"a stream of {path}{', with echo,' if 'echo' in body else ''}"
        yield f"{what} is the whole answer", texts == expected and scored == names
        yield (f"{what} ends as it should", events[-1] == "[DONE]" and events[-2]["choices"] == []
               and events[-2]["usage"]["completion_tokens"] > 0
               and finish == [c["finish_reason"] for c in whole])
        yield f"{what} has several parts", len(events) > 10


def check_stops(server):
    body = dict(prompt="So it", max_tokens=60, seed=5)
    choice = server.completion(logprobs=0, **body)["choices"][0]
    text, tokens = choice["text"], choice["logprobs"]["tokens"]
    # The end of a token with all of the next.
    across = [a[-1:] + b for a, b in zip(tokens, tokens[1:]) if "bytes:" not in a + b and "<|" not in a + b]
    across = [stop for stop in across if stop in text]
    yield f"{len(across)} stop strings across tokens", len(across) >= 5
    good = True
    for stop in across:
        cut = text[:text.index(stop)]
        for stops in (stop, ["never there", stop]):
            choice = server.completion(stop=stops, **body)["choices"][0]
            good &= choice["text"] == cut and choice["finish_reason"] == "stop"
        events = server.events("/v1/completions", stop=stop, **body)[:-1]
        good &= "".join(e["choices"][0]["text"] for e in events) == cut
        scored = server.completion(stop=stop, logprobs=0, **body)["choices"][0]["logprobs"]
        good &= all(offset <= len(cut) for offset in scored["text_offset"])
    yield "a stop string ends the text before it", good
    ends = ("<|endoftext|>", "<|im_end|>")
    ended = [c for c in server.completion(prompt=[60], n=128, max_tokens=60, seed=1, temperature=2,
                                          logprobs=0)["choices"] if c["finish_reason"] == "stop"]
    yield (f"an end token ends it and has no text ({len(ended)} of 128)",
           ended and all(c["logprobs"]["tokens"][-1] in ends and not any(end in c["text"] for end in ends)
                         for c in ended))


def check_tokenizer(server):
    with open(os.path.join(TOKENIZER, "texts.json")) as f:
        texts = json.load(f)[:40]
    good = True
    for text, ids, decoded, _ in texts:
        text = bytes.fromhex(text).decode(errors="replace")
        status, answer = server.post("/tokenize", {"prompt": text, "add_special_tokens": False})
        good &= status == 200 and answer["tokens"] == ids
        good &= server.post("/detokenize", {"tokens": ids[::-1]})[1]["prompt"] == decoded
    yield "texts have the ids of PyPI's tokenizers, and back", good and len(texts) == 40
    info = json.loads(server.get("/tokenizer_info")[2])
    yield ("the tokens with a role are named",
           info["eos_token"] == "<|endoftext|>" and info["bos_token"] is None and "chat_template" in info)
    models = json.loads(server.get("/v1/models")[2])
    yield "the model is listed", [m["id"] for m in models["data"]] == ["chat"] and models["object"] == "list"


def check_begun(server):
    """A tokenizer that puts a token before each text."""
    with open(os.path.join(LLAMA3, "texts.json")) as f:
        golden = json.load(f)
    begin, (text, ids, _) = golden["before"], golden["texts"][3]
    text = bytes.fromhex(text).decode()
    found = [server.post("/tokenize", {"prompt": text, **more})[1]["tokens"]
             for more in ({}, {"add_special_tokens": True}, {"add_special_tokens": False})]
    yield "a text begins with the tokenizer's token unless told", found == [begin + ids, begin + ids, ids]
    body = dict(max_tokens=4, temperature=0, echo=True, logprobs=0)
    answer, same, without = (
        server.completion(prompt=prompt, **body, **more)["choices"][0] for prompt, more in
        ((text, {}), (begin + ids, {}), (text, {"add_special_tokens": False})))
    names = answer["logprobs"]["tokens"]
    yield ("so does a prompt, and its echo has no text of it", answer["text"].startswith(text)
           and same["text"] == "<|begin_of_text|>" + answer["text"] and names == same["logprobs"]["tokens"]
           and answer["logprobs"]["token_logprobs"] == same["logprobs"]["token_logprobs"]
           and names[0] == "<|begin_of_text|>" and answer["logprobs"]["text_offset"][:2] == [0, 0])
    yield ("a prompt without it is another one", without["text"].startswith(text)
           and without["logprobs"]["tokens"][:len(ids)] == names[1:len(ids) + 1]
           and without["logprobs"]["token_logprobs"][1] != answer["logprobs"]["token_logprobs"][2])


def check_refusals(server):
    chat, plain, ask = "/v1/chat/completions", "/v1/completions", [{"role": "user", "content": "x"}]
    cases = [
        (plain, {"prompt": "a", "best_off": 2}, 400, "best_off", "not a member"),
        (plain, {"prompt": "a", "suffix": "b"}, 400, "suffix", "only \"\" is supported"),
        (plain, {"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty", "only 0"),
        (plain, {"prompt": "a", "logit_bias": {"5": 1}}, 400, "logit_bias", "only {}"),
        (plain, {"prompt": "a", "n": 2, "best_of": 3}, 400, "best_of", "only 2"),
        (plain, {"prompt": "a", "n": 0}, 400, "n", "from 1 to 128, found 0"),
        (plain, {"prompt": "a", "max_tokens": -1}, 400, "max_tokens", "from 0"),
        (plain, {"prompt": "a", "max_tokens": 1.5}, 400, "max_tokens", "whole number"),
        (plain, {"prompt": "a", "max_tokens": 10 ** 30}, 400, "max_tokens", "whole number"),
        (plain, {"prompt": "a", "temperature": "hot"}, 400, "temperature", "a number"),
        (plain, {"prompt": "a", "temperature": -1}, 400, "temperature", "from 0"),
        (plain, {"prompt": "a", "top_p": 0}, 400, "top_p", "more than 0"),
        (plain, {"prompt": "a", "logprobs": 21}, 400, "logprobs", "to 20"),
        (plain, {"prompt": "a", "stream": "yes"}, 400, "stream", "true or false"),
        (plain, {"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", "alone"),
        (plain, {"prompt": "a", "stop": [""]}, 400, "stop", "of 1 to"),
        (plain, {"prompt": "a", "stop": ["x"] * 33}, 400, "stop", "at most 32"),
        (plain, {"prompt": "a", "model": "gpt-4"}, 404, "model", "\"chat\", found \"gpt-4\""),
        (plain, {}, 400, "prompt", "found none"),
        (plain, {"prompt": []}, 400, "prompt", "found []"),
        (plain, {"prompt": ""}, 400, "prompt", "at least one token"),
        (plain, {"prompt": [[1], []]}, 400, "prompt", "none in number 1"),
        (plain, {"prompt": [1, 720]}, 400, "prompt", "from 0 to 719, found 720"),
        (plain, {"prompt": [1, -1]}, 400, "prompt", "found -1"),
        (plain, {"prompt": [1, "a"]}, 400, "prompt", "found \"a\""),
        (plain, {"prompt": {"a": 1}}, 400, "prompt", "found {"),
        (plain, {"prompt": [1] * 500, "max_tokens": 13}, 400, "prompt", "found 500 and max_tokens = 13"),
        (plain, {"prompt": [[1]] * 100, "n": 128}, 400, "n", "found 12800"),
        (plain, [1], 400, None, "expected an object"),
        (chat, {"messages": []}, 400, "messages", "at least one message"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, 400, None, "messages[0].role: expected"),
        (chat, {"messages": [{**ask[0], "mood": 1}]}, 400, None, "\"mood\" is not understood"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 400,
         None, "type \"text\", found image_url"),
        (chat, {"messages": ask, "tools": [{"type": "function"}]}, 400, "tools", "not a member"),
        (chat, {"messages": ask, "response_format": {"type": "json_object"}}, 400, "response_format", "only"),
        (chat, {"messages": ask, "top_logprobs": 2}, 400, "top_logprobs", "alone"),
        (chat, {"messages": ask, "logprobs": 2}, 400, "logprobs", "true or false"),
        (chat, {"messages": ask, "prompt": "x"}, 400, "prompt", "not a member"),
        ("/tokenize", {"prompt": [1]}, 400, "prompt", "a text"),
        ("/detokenize", {"tokens": "x"}, 400, "tokens", "a list"),
    ]
    for path, body, status, param, text in cases:
        found, answer = server.post(path, body)
        error = answer.get("error", {})
        good = found == status and error.get("param") == param and text in error.get("message", "") \
            and "--ignore" not in error["message"] and error["type"] == "invalid_request_error"
        if not good:
            print(found, answer)
        yield f"refused: {path} {str(body)[:60]}", good
    neutral = dict(presence_penalty=0, frequency_penalty=0.0, logit_bias={}, user="me", suffix=None,
                   best_of=1, logprobs=None, stop=None, stream=False)
    status, _ = server.post(plain, {"prompt": "a", "max_tokens": 1, **neutral})
    yield "what changes nothing may stand there", status == 200


def streamed(body):
    """The bytes of a request for a stream."""
    data = json.dumps({**body, "stream": True}).encode()
    return HEAD % b"/v1/completions" + b"Content-Length: %d\r\n\r\n" % len(data) + data


def check_http(server):
    for method, path, status, header in (
            ("GET", "/v1/completions", 405, ("Allow", "POST")), ("POST", "/health", 405, ("Allow", "GET")),
            ("GET", "/", 404, None), ("GET", "/v1/models/../x", 404, None),
            ("DELETE", "/v1/models", 405, None), ("HEAD", "/health", 405, None),
            ("BREW", "/health", 405, None)):
        found, headers, _ = server.request(method, path, headers={})
        yield (f"{method} {path} has status {status}",
               found == status and (not header or headers[header[0]] == header[1]))
    found = server.request("POST", "/tokenize", b'{"prompt": "a"}', headers={})[0]
    yield "another content type has status 415", found == 415
    found = server.request("GET", "/v1/models", headers={"Host": "evil.example"})[0]
    yield "another host's name has status 403", found == 403
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    statuses = []
    for path in ("/health", "/nowhere", "/v1/models", "/health"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    yield "a connection serves several requests", statuses == [200, 404, 200, 200] and connection.sock
    connection.close()
    with server.socket() as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        data = b""
        while data.count(b'"ok"') < 3:
            data += s.recv(65536)
    yield "requests may come before the answers", data.count(b"200 OK") == 3
    with server.socket() as s:
        s.sendall(streamed({"prompt": "a", "max_tokens": 3}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        data = b"".join(iter(lambda: s.recv(65536), b""))
    yield "a client of HTTP/1.0 gets a stream without chunks", data.endswith(b"\n\ndata: [DONE]\n\n")
    with server.socket() as s:
        s.sendall(HEAD % b"/tokenize" + b"Expect: 100-continue\r\nContent-Length: 15\r\n\r\n")
        first = s.recv(65536)
        s.sendall(b'{"prompt": "a"}')
        data = s.recv(65536)
    yield "a client that asks first is told to go on", first.startswith(b"HTTP/1.1 100") and b"200 OK" in data


def check_token(model, root):
    path = os.path.join(root, "token")
    with open(path, "w") as f:
        f.write("a-token-of-enough-letters\n")
    for mode in (0o644, 0o640, 0o400):
        os.chmod(path, mode)
        done = subprocess.run([PROGRAM, "serve", model, "--token-file", path], capture_output=True, text=True,
                              timeout=60, check=False)
        yield (f"a token file of mode {mode:o} is refused",
               done.returncode and "expected a file of mode 0600" in done.stderr)
    os.chmod(path, 0o600)
    done = subprocess.run([PROGRAM, "serve", model, "--host", "0.0.0.0"], capture_output=True, text=True,
                          timeout=60, check=False)
    yield ("another machine's requests need a token",
           done.returncode and "expected --token-file" in done.stderr)
    with Server(model, "--token-file", path, "--host", "0.0.0.0") as server:
        statuses = []
        for token in ("", "a-token-of-enough-letterS", "a-token-of-enough-letters2",
                      "a-token-of-enough-letters"):
            server.headers["Authorization"] = f"Bearer {token}"
            statuses.append(server.get("/v1/models")[0])
        yield "the right token alone is taken", statuses == [401, 401, 401, 200]
        found = server.request("POST", "/v1/completions", b"x" * 100, {"Authorization": "Basic abc"})
        yield "a request without it is not read", found[0] == 401 and found[1]["WWW-Authenticate"] == "Bearer"
        yield "health needs none", server.request("GET", "/health", headers={})[0] == 200


def check_stopping(model):
    for number in (signal.SIGTERM, signal.SIGINT):
        with Server(model) as server:
            idle = server.socket()
            got, begun = [], threading.Event()

            def read():
                with server.socket() as s:
                    s.sendall(streamed({"prompt": "a", "max_tokens": 1500, "seed": 1}))
                    while part := s.recv(65536):
                        got.append(part)
                        begun.set()

            thread = threading.Thread(target=read)
            thread.start()
            begun.wait(30)
            server.process.send_signal(number)
            time.sleep(0.3)
            try:
                server.socket(2).close()
                refused = False
            except OSError:
                refused = True
            running = server.process.poll() is None
            code = server.process.wait(60)
            thread.join()
            data = b"".join(got)
            yield (f"{number.name}: a request under way is answered to its end, others are refused",
                   code == 0 and refused and running and data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                   and data.count(b"data: ") > 1000)
            yield f"{number.name}: a connection without a request is closed", idle.recv(10) == b""
            idle.close()
    with Server(model, "--grace", "1", "--context-length", "100000") as server, server.socket() as s:
        s.sendall(streamed({"prompt": "a", "max_tokens": 99000}))
        s.recv(65536)
        code, seconds = server.stop()
        yield f"a request that is too long ends after --grace ({seconds:.1f} s)", code == 0 and seconds < 10


def check_ranks(model):
    """One server over two tensor-parallel ranks."""
    asked = dict(prompt=["So it", "The state"], max_tokens=30, temperature=0, logprobs=2, echo=True)
    answers = []
    for ranks in (1, 2):
        with Server(model, ranks=ranks) as server:
            answers.append(server.completion(**asked)["choices"])
            code, seconds = server.stop(signal.SIGUSR1)  # on SIGTERM mpirun kills its ranks
    same = [c["text"] for c in answers[0]] == [c["text"] for c in answers[1]]
    apart = max(abs(a - b) for x, y in zip(*answers)
                for a, b in zip(x["logprobs"]["token_logprobs"][1:], y["logprobs"]["token_logprobs"][1:]))
    yield f"two ranks answer as one (largest difference {apart:.1e})", same and apart <= WITHIN
    yield f"and end on SIGUSR1 to mpirun ({seconds:.1f} s)", code == 0 and seconds < 5


def checks(root):
    chat = chat_model(os.path.join(root, "chat"))
    with Server(chat, *TEMPLATE) as server:
        yield from check_logprobs(server, chat, root)
        yield from check_texts(server, chat)
        yield from check_streams(server)
        yield from check_stops(server)
        yield from check_tokenizer(server)
        yield from check_refusals(server)
        yield from check_http(server)
        yield "nothing is left", server.settled()
        code, seconds = server.stop()
        yield f"an idle server stops at once ({seconds:.1f} s)", code == 0 and seconds < 2
    with Server(chat, "--chat-template", "Qwen3", "--enable-thinking", "false") as server:
        lengths = [server.completion("/v1/chat/completions", max_tokens=1, messages=[
            {"role": "user", "content": "Why?"}], **more)["usage"]["prompt_tokens"]
            for more in ({}, {"chat_template_kwargs": {"enable_thinking": True}})]
        yield "the template's variables are a request's, else the server's", lengths[0] > lengths[1]
    with Server(begun_model(os.path.join(root, "begun"))) as server:
        yield from check_begun(server)
    bytes_ = byte_model(os.path.join(root, "bytes"))
    with Server(bytes_) as server:
        status, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        yield ("a model without a chat template says so",
               status == 400 and "chat template" in answer["error"]["message"])
    yield from check_token(bytes_, root)
    yield from check_stopping(bytes_)
    yield from check_ranks(bytes_)


def main():
    return run(checks)


if __name__ == "__main__":
    sys.exit(main())
