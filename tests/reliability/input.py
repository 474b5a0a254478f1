#!/usr/bin/env python3
"""Input as people have it, by the tools that make it: packed files, chats with all kinds of members, damage.

usage: input.py WUNENG [TRIALS [SEED]]

Without TRIALS the short form of CI: every packing tool that is here, and 3000 random chats. With it also so
many runs on a damaged file each, and ten times as many chats. Ends with "N passed, M failed".
"""
import gzip
import bz2
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZER = os.path.join(HERE, "..", "golden", "tokenizer")
LINES = "".join(json.dumps({"text": f"line {i} of {i * i}"}) + "\n" for i in range(2000)).encode()

# Read: the file's name, and what makes it of plain text on stdin. Others must be refused.
READ = {"gz": "gzip", "1.gz": "gzip -1", "p.gz": "pigz -p 4 -b 128", "bgz": "bgzip", "bz2": "bzip2",
        "p.bz2": "pbzip2 -p4", "l.bz2": "lbzip2", "xz": "xz", "t.xz": "xz -T4 --block-size=4096",
        "crc.xz": "xz -C none", "lzma": "xz --format=lzma", "zst": "zstd", "19.zst": "zstd -19",
        "long.zst": "zstd --long=31", "ultra.zstd": "zstd --ultra -22", "no_check.zst": "zstd --no-check",
        "p.zst": "pzstd -p 4", "rsync.zst": "zstd --rsyncable"}
REFUSED = {"lz4": "lz4", "Z": "compress", "7z": "7z a -si a.7z > /dev/null; cat a.7z",
           "zip": "zip -q - -", "lz": "lzip",
           "lzo": "lzop", "zst.gz": "zstd | gzip", "br": "brotli"}


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, good, found=""):
        self.passed += bool(good)
        self.failed += not good
        if not good:
            print(f"FAILED {name}: {found}", flush=True)


def tokenize(program, out, *arguments):
    return subprocess.run([program, "tokenize", *arguments, "--out", out], capture_output=True, timeout=300,
                          check=False, text=True, errors="replace")


def packed(command, text):
    """None where the tool is not here."""
    if any(shutil.which(part.split()[0]) is None for part in command.split(" | ")):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              shell=True, check=False, cwd=folder).stdout


def one_error(done, *names):
    """Whether a run ended with one line of error that has the names."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("wuneng: error")]
    return done.returncode not in (0, -11, -6) and len(lines) == 1 and all(name in lines[0] for name in names)


def tools(program, root, tally):
    """All readable ones in one run, as many documents as plain files have; the others one by one."""
    folder, count = os.path.join(root, "packed"), 0
    os.mkdir(folder)
    for ending, command in READ.items():
        if content := packed(command, LINES):
            with open(os.path.join(folder, f"{count}.jsonl.{ending.split('.')[-1]}"), "wb") as f:
                f.write(content)
            count += 1
    modules = {"python.gz": gzip.compress(LINES), "python.bz2": bz2.compress(LINES),
               "python.xz": lzma.compress(LINES),
               "members.gz": b"".join(gzip.compress(line + b"\n") for line in LINES.splitlines()),
               "padded.gz": gzip.compress(LINES) + bytes(5000)}
    for name, content in modules.items():
        with open(os.path.join(folder, name.replace(".", ".jsonl.")), "wb") as f:
            f.write(content)
    count += len(modules)
    out = os.path.join(root, "out")
    done = tokenize(program, out, folder, "--tokenizer", "bytes")
    tally.check("packed files", f"{2000 * count:,} documents" in done.stdout, done.stdout + done.stderr)
    with open(out + ".bin", "rb") as f:
        tokens = f.read()
    plain = "".join(json.loads(line)["text"] for line in LINES.splitlines()).encode()
    tally.check("their text", tokens == plain * count, f"{len(tokens)} tokens")
    refused = 0
    for ending, command in REFUSED.items():
        if content := packed(command, LINES):
            path = os.path.join(root, "a.jsonl." + ending)
            with open(path, "wb") as f:
                f.write(content)
            done = tokenize(program, out, path, "--tokenizer", "bytes")
            tally.check(command, one_error(done, path), done.stderr)
            refused += 1
    print(f"  {count} ways to pack read, {refused} refused")


# Members of messages and of lines, of all dialects, and some that no one has thought of.
OF_MESSAGES = ["name", "tool_call_id", "refusal", "reasoning_content", "reasoning", "thinking", "prefix",
               "weight", "audio", "images", "function_call", "tool_calls", "annotations", "id", "train",
               "loss", "mask", "citations", "tool_responses", "content_type", "recipient", "channel"]
OF_LINES = ["system", "tools", "functions", "function_call", "tool_choice", "images", "documents", "history",
            "weight", "label", "chat_template_kwargs", "source", "id", "system_prompt", "input", "query"]
ROLES = ["system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "Assistant"]
# What an accepted chat's text need not have: where it is from, and which call a result answers.
WITHOUT_MEANING = {"id", "source", "input", "query", "label", "tool_call_id", "name"}


def random_chat(rng, number):
    """A line, and the words in it that an accepted record must have in its text."""
    words, count = set(), 0

    def word(key=""):
        nonlocal count
        count += 1
        text = f"w{number}x{count}e"
        if key not in WITHOUT_MEANING:
            words.add(text)
        return text

    def value(key):
        kind = rng.randrange(8)
        call = {"name": word(), "arguments": rng.choice([json.dumps({"a": word()}), {"a": word()}])}
        if key == "function_call" and kind < 5:
            return call
        if key == "tool_calls" and kind < 5:
            return [{"type": "function", "function": call}]
        if key in ("tools", "functions") and kind < 5:
            return [{"name": word()}]
        return [None, "", [], word(key), {"text": word(key)}, [word(key)], word(key), word(key)][kind]

    def content():
        parts = [{"type": "text", "text": word()} for _ in range(2)]
        return rng.choice([word(), word(), parts])

    messages = []
    for i in range(rng.randrange(1, 5)):
        message = {"role": rng.choice(ROLES) if rng.random() < 0.2 else ["user", "assistant"][i % 2]}
        message["content"] = content() if rng.random() < 0.9 else rng.choice([None, "", word()])
        if rng.random() < 0.3:
            key = rng.choice(OF_MESSAGES)
            message[key] = value(key)
        messages.append(message)
    line = {"messages": messages}
    if rng.random() < 0.3:
        key = rng.choice(OF_LINES)
        line[key] = value(key)
    # Words were also drawn for values that were not chosen.
    return line, words & set(re.findall(r"w\d+x\d+e", json.dumps(line)))


def decoder():
    """Ids to text, by vocab.json (GPT-2's characters for bytes) and the added tokens."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in visible]
    byte_of = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(others)}
    with open(os.path.join(TOKENIZER, "tokenizer.json"), encoding="utf-8") as f:
        model = json.load(f)
    text = {i: bytes(byte_of[c] for c in token) for token, i in model["model"]["vocab"].items()}
    text |= {token["id"]: token["content"].encode() for token in model["added_tokens"]}
    return lambda ids: b"".join(text[i] for i in ids).decode()


def documents(prefix):
    with open(prefix + ".idx", "rb") as f:
        index = f.read()
    width, code = {4: (4, "i"), 8: (2, "H"), 1: (1, "B")}[index[17]]
    with open(prefix + ".bin", "rb") as f:
        tokens = memoryview(f.read()).cast(code)
    count, at = int.from_bytes(index[18:26], "little"), 0
    for length in memoryview(index[34:34 + 4 * count]).cast("i"):
        yield tokens[at:at + length]
        at += length
    assert width * at == len(tokens) * width


def chats(program, root, tally, count, rng):
    """Of an accepted record all words are in its text: no member that has one was dropped."""
    path, out, expected = os.path.join(root, "chats.jsonl"), os.path.join(root, "chats"), {}
    with open(path, "w") as f:
        for number in range(count):
            line, expected[number] = random_chat(rng, number)
            f.write(json.dumps(line) + "\n")
    done = tokenize(program, out, path, "--tokenizer", TOKENIZER, "--chat-template", "Qwen2.5",
                    "--bad-lines", "skip", "--kind", "text")
    tally.check("chats", done.returncode == 0, done.stderr)
    decode, accepted = decoder(), 0
    for ids in documents(out):
        text = decode(ids)
        found = set(re.findall(r"w\d+x\d+e", text))
        if not found:
            continue
        accepted += 1
        number = int(re.match(r"w(\d+)x", next(iter(found)))[1])
        missing = expected[number] - found
        tally.check(f"chat {number}", not missing, f"{missing} dropped")
    tally.check("many chats are accepted, many refused", count / 5 < accepted < count * 0.95, accepted)
    print(f"  {count} chats with random members: {accepted} accepted, each with all its words")


def damage(program, root, tally, trials, rng):
    """A flip, a cut or rubbish: the same tokens, or one error that names the file."""
    plain, out, same = os.path.join(root, "plain"), os.path.join(root, "damaged"), 0
    text = LINES[:20000]
    kinds = {"gz": gzip.compress(text), "bz2": bz2.compress(text), "xz": lzma.compress(text)}
    if content := packed("zstd", text):
        kinds["zst"] = content
    with open(plain + ".jsonl", "wb") as f:
        f.write(text[:text.rindex(b"\n") + 1])
    for trial in range(trials):
        ending, content = rng.choice(list(kinds.items()))
        at, changed = rng.randrange(len(content)), bytearray(content)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            del changed[at:at + rng.randrange(1, 100)]
        else:
            changed[at:at] = rng.randbytes(rng.randrange(1, 100))
        path = os.path.join(root, f"damaged.jsonl.{ending}")
        with open(path, "wb") as f:
            f.write(changed)
        done = tokenize(program, out, path, "--tokenizer", "bytes", "--bad-lines", "skip")
        if done.returncode == 0:
            with open(out + ".bin", "rb") as f:
                tokens = f.read()
            good = tokens == "".join(json.loads(x)["text"] for x in text.splitlines()[:-1]).encode()
            same += good
        else:
            good = one_error(done, path)
        tally.check(f"damage {trial} ({ending}, kind {kind}, byte {at})", good, done.stdout + done.stderr)
    print(f"  {trials} damaged files: {trials - same} errors that name them, {same} with the same tokens")


def main():
    program, trials = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rng, tally = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1), Tally()
    with tempfile.TemporaryDirectory() as root:
        tools(program, root, tally)
        chats(program, root, tally, 30000 if trials else 3000, rng)
        if trials:
            damage(program, root, tally, trials, rng)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
