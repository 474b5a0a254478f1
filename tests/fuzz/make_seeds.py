#!/usr/bin/env python3
"""Small inputs that each fuzz target begins with, cut from tests/golden, and the good files that stand beside
an arbitrary one.

usage: make_seeds.py GOLDEN OUT

Writes OUT/<target>/... and OUT/<target>_parts/..., and replaces what was there.
"""

import bz2
import gzip
import json
import lzma
import os
import shutil
import struct
import sys


def save(*path, content):
    path = os.path.join(*path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(content)


def tokenizer(golden, out):
    """The golden vocabulary cut to its bytes and the first merges: small enough to be changed often."""
    def read(name):
        with open(os.path.join(golden, "tokenizer", name)) as f:
            return json.load(f)
    whole, config = read("tokenizer.json"), read("tokenizer_config.json")
    merges = whole["model"]["merges"][:12]
    merged = ["".join(m) if isinstance(m, list) else m.replace(" ", "") for m in merges]
    names = [
        t for t, i in sorted(whole["model"]["vocab"].items(), key=lambda item: item[1]) if len(t) == 1
    ] + merged
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    added = [{**t, "id": len(vocab) + i} for i, t in enumerate(whole["added_tokens"][:3])]
    whole["model"].update(vocab=vocab, merges=merges)
    whole["added_tokens"] = added
    config["added_tokens_decoder"] = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    config["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    lines = "#version: 0.2\n" + "".join((m if isinstance(m, str) else " ".join(m)) + "\n" for m in merges)
    parts = {
        "tokenizer.json": json.dumps(whole, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": lines.encode(),
    }
    for i, (name, content) in enumerate(parts.items()):
        save(out, "tokenizer_parts", name, content=content)
        save(out, "tokenizer", name, content=bytes([i]) + content)
    save(out, "tokenizer", "config_beside", content=b"\4" + parts["tokenizer_config.json"])
    whole["model"]["merges"] = [m.split(" ") if isinstance(m, str) else " ".join(m) for m in merges]
    whole["model"]["ignore_merges"] = True
    save(out, "tokenizer", "other_merges", content=b"\0" + json.dumps(whole, ensure_ascii=False).encode())
    for scheme in ("gpt2_prefix", "llama3", "neox", "tekken", "deepseek3", "literal"):
        with open(os.path.join(golden, "tokenizer_schemes", scheme, "tokenizer.json")) as f:
            other = json.load(f)
        other["model"].update(vocab=vocab, merges=merges)
        ids = {}
        for i, token in enumerate(other["added_tokens"]):
            ids[token["content"]] = token["id"] = len(vocab) + i
        post = other["post_processor"] or {}
        for part in post.get("processors", [post]):
            for token in part.get("special_tokens", {}).values():
                token["ids"] = [ids[token["id"]]]
        save(out, "tokenizer", scheme, content=b"\0" + json.dumps(other, ensure_ascii=False).encode())


def safetensors(golden, out):
    """The smallest tensors of a golden model, and an index of them."""
    with open(os.path.join(golden, "qwen2_tied", "model.safetensors"), "rb") as f:
        data = f.read()
    length = struct.unpack_from("<Q", data)[0]
    header, content, kept, index = json.loads(data[8:8 + length]), b"", {"__metadata__": {"format": "pt"}}, {}
    header.pop("__metadata__", None)
    for name, entry in sorted(
        header.items(), key=lambda item: item[1]["data_offsets"][1] - item[1]["data_offsets"][0]
    )[:3]:
        begin, end = entry["data_offsets"]
        kept[name] = {**entry, "data_offsets": [len(content), len(content) + end - begin]}
        content += data[8 + length + begin:8 + length + end]
        index[name] = "model-00001-of-00001.safetensors"
    text = json.dumps(kept).encode()
    model = struct.pack("<Q", len(text)) + text + content
    save(out, "safetensors_parts", "model", content=model)
    save(out, "safetensors", "model", content=b"\0" + model)
    save(out, "safetensors", "empty", content=b"\0" + struct.pack("<Q", 2) + b"{}")
    scalar = b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}'
    save(out, "safetensors", "scalar", content=b"\0" + struct.pack("<Q", len(scalar)) + scalar + b"\1")
    save(
        out,
        "safetensors",
        "index",
        content=b"\1" + json.dumps({"metadata": {"total_size": len(content)}, "weight_map": index}).encode(),
    )


def jsonl(golden, out):
    with open(os.path.join(golden, "tokenizer", "chats.json")) as f:
        chats = json.load(f)[:12]
    lines = [{k: v for k, v in chat.items() if k in ("messages", "tools") and v} for chat in chats]
    turn = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "b"},
    ]
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    lines += [
        {"text": "é\u2028"},
        {"conversations": turn, "system": "s", "tools": "[{\"name\": \"f\"}]"},
        {"instruction": "i", "input": "j", "output": "o", "history": [["q", "a"]]},
        {"prompt": "p", "completion": "c"},
        {"prompt": parts, "chosen": {"role": "assistant", "content": "c"}, "rejected": "r"},
        {"conversations": turn[:1], "chosen": turn[3], "rejected": turn[3]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}, "weight": 0},
                      {"role": "function", "name": "f", "content": "1"}],
         "functions": [{"name": "f", "most": 10**30}]},
    ]
    texts = [json.dumps(line, ensure_ascii=False).encode() for line in lines]
    for i, text in enumerate(texts):
        save(out, "jsonl", f"line_{i}", content=text + b"\n")
    save(out, "jsonl", "lines", content=b"\n\n".join(texts[-6:]) + b"\nnot json\n[]\n")
    few = b"\n".join(texts[-6:])
    save(out, "jsonl", "gzip", content=gzip.compress(few, mtime=0))
    save(out, "jsonl", "bzip2", content=bz2.compress(few))
    save(out, "jsonl", "xz", content=lzma.compress(few))
    save(out, "jsonl", "lzma", content=lzma.compress(few, lzma.FORMAT_ALONE))
    save(out, "jsonl", "utf16", content=few.decode().encode("utf-16"))


def token_file(_, out):
    for name, code, size, lengths, documents in (
        ("i32", 4, 4, [3, 0, 2], [0, 1, 3]),
        ("u8", 1, 1, [5, 1], [0, 2]),
        ("u16", 8, 2, [], [0]),
    ):
        offsets, at = [], 0
        for length in lengths:
            offsets.append(at)
            at += length * size
        index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(documents)) + struct.pack(
            f"<{len(lengths)}i{len(offsets)}q{len(documents)}q", *lengths, *offsets, *documents)
        save(out, "token_file", name, content=struct.pack("<HB", at, name == "u8") + index)


def request(_, out):
    ask = {"messages": [{"role": "user", "content": [{"type": "text", "text": "é"}]},
                        {"role": "assistant", "content": "", "tool_calls": [
                            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                        {"role": "tool", "tool_call_id": "1", "content": "x"}],
           "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 2,
           "response_format": {"type": "text"}}
    common = {"n": 2, "stream": True, "stream_options": {"include_usage": True}, "stop": ["a", "b"],
              "seed": -1, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "model": "m",
              "repetition_penalty": 1.1, "presence_penalty": 0, "logit_bias": {}, "user": "u"}
    for i, (kind, body) in enumerate((
            (0, {"prompt": "text", "echo": True, "logprobs": 1, "max_tokens": 0, **common}),
            (0, {"prompt": [[1, 2], "b"], "best_of": 1, "suffix": None}), (0, {"prompt": [1, 2, 699]}),
            (1, {**ask, **common}), (2, {"prompt": "text", "add_special_tokens": False}),
            (3, {"tokens": [1, 700]}))):
        save(out, "request", f"body_{i}", content=bytes([kind]) + json.dumps(body).encode())


def main():
    golden, out = sys.argv[1:]
    for make in (tokenizer, safetensors, jsonl, token_file, request):
        shutil.rmtree(os.path.join(out, make.__name__), ignore_errors=True)
        make(golden, out)


if __name__ == "__main__":
    main()
