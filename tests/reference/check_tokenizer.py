#!/usr/bin/env python3
"""Our tokenizer and chat template against PyPI's `tokenizers` and jinja2, id by id, on the committed small
vocabulary and, where ../shared/data is there, on Qwen2.5's real one: real and random texts of every script,
every code point in several neighbourhoods, broken UTF-8, decoding; with the real template chats, and
templates that must be refused.

usage: check_tokenizer.py PROBE [quick | COUNT]   (COUNT random texts, 100,000 by default)
Ends with status 77 (skipped) where this python has no `tokenizers` or jinja2.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import tokenizer_cases as cases

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(os.path.dirname(HERE), "golden", "tokenizer")
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
SHARED = os.path.join(os.path.dirname(CHECKOUT), "shared", "data")
REAL = os.path.join(SHARED, "qwen2.5-tokenizer")
SKIPPED = 77
AROUND = [  # a code point's class, case, composition and combining class all show in one of these
    lambda c: "a'" + c + "b'l" + c + " '" + c + "e", lambda c: c + "a1 " + c + " \n" + c + "\n",
    lambda c: "a\u0345" + c + "\u0334e\u0301" + c + "\u0301",
    lambda c: c + "\u1161\u11a8" + c + "\u0338" + c + "\u3099"]


def probe(binary, directory, command, frames, kind):
    """Sends frames (bytes or lists of ids), returns those that come back: kind is a cycle of i (ids), s
    (text), b (bytes)."""
    def pack(frame):
        body = frame if isinstance(frame, bytes) else struct.pack(f"<{len(frame)}i", *frame)
        return struct.pack("<I", len(frame)) + body
    run = subprocess.run([binary, directory, command], input=b"".join(map(pack, frames)), capture_output=True,
                         check=False)
    if run.returncode != 0:
        sys.exit(f"{directory} {command}: {run.stderr.decode()}")
    out, at, data = [], 0, run.stdout
    while at < len(data):
        count, k = struct.unpack_from("<I", data, at)[0], kind[len(out) % len(kind)]
        end = at + 4 + count * (4 if k == "i" else 1)
        body = data[at + 4:end]
        out.append(list(struct.unpack(f"<{count}i", body)) if k == "i" else body.decode() if k == "s"
                   else list(body))
        at = end
    return out


class Check:
    """tokenizer: of `tokenizers`; by default Qwen2.5's scheme with the directory's vocab.json."""

    def __init__(self, binary, directory, tokenizer=None):
        import tokenizer_reference as reference
        self.binary, self.directory, self.reference = binary, directory, reference
        self.tokenizer, self.failed = tokenizer or reference.load(directory), 0
        self.added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]

    def same(self, what, case, expected, found):
        if expected != found:
            self.failed += 1
            if self.failed <= 10:
                print(f"{what}: {ascii(case)[:300]}\n  expected {ascii(expected)[:300]}\n"
                      f"  found    {ascii(found)[:300]}")

    def encode(self, texts):
        found = probe(self.binary, self.directory, "encode", texts, "i")
        assert len(found) == len(texts)
        for i in range(0, len(texts), 10000):
            block = [t.decode(errors="replace") for t in texts[i:i + 10000]]
            for text, e, f in zip(texts[i:], self.tokenizer.encode_batch(block, add_special_tokens=False),
                                  found[i:]):
                self.same("encode", text, e.ids, f)
        print(f"  {len(texts)} texts encoded, {sum(map(len, found))} ids")

    def decode(self, count):
        generator = cases.random.Random(3)
        size = self.tokenizer.get_vocab_size() + 20  # ids without a token as well
        lists = [[generator.randrange(size) for _ in range(generator.randint(0, 30))] for _ in range(count)]
        for command, skip in (("decode", False), ("decode_skip", True)):
            found = probe(self.binary, self.directory, command, lists, "s")
            for ids, e, f in zip(lists, self.tokenizer.decode_batch(lists, skip_special_tokens=skip), found):
                self.same(command, ids, e, f)
        print(f"  {count} lists of ids decoded")

    def saved(self, texts):
        """The same ids from the tokenizer.json that `tokenizers` writes."""
        with tempfile.TemporaryDirectory() as directory:
            self.tokenizer.save(os.path.join(directory, "tokenizer.json"))
            forms = [probe(self.binary, d, "encode", texts, "i") for d in (self.directory, directory)]
        for text, e, f in zip(texts, *forms):
            self.same("tokenizer.json", text, e, f)
        print(f"  {len(texts)} texts encoded by tokenizer.json as written by `tokenizers`")

    def chats(self, command, template, count):
        chats = cases.chats(seed=5, count=count)
        frames = [json.dumps(dict(messages=m, tools=t, add_generation_prompt=p)).encode()
                  for m, t, p in chats]
        found, labelled = probe(self.binary, self.directory, command, frames, "sib"), 0
        assert len(found) == 3 * len(chats)
        for i, (messages, tools, prompt) in enumerate(chats):
            text = self.reference.render(template, messages, tools, prompt)
            ids, mask = self.reference.assistant_mask(self.tokenizer, text)
            self.same(command, messages, [text, ids, mask], found[3 * i:3 * i + 3])
            labelled += sum(mask)
        print(f"  {len(chats)} chats rendered and encoded ({command}), {sum(map(len, found[1::3]))} ids, "
              f"{labelled} of them the assistant's")

    def with_template(self, template):
        """The end of a run with the directory's files but for its chat template."""
        with tempfile.TemporaryDirectory() as directory:
            for name in ("vocab.json", "merges.txt"):
                os.symlink(os.path.join(self.directory, name), os.path.join(directory, name))
            with open(os.path.join(self.directory, "tokenizer_config.json")) as f:
                config = json.load(f)
            config["chat_template"] = template
            with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
                json.dump(config, f)
            run = subprocess.run([self.binary, directory, "chat"], input=b"", capture_output=True,
                                 check=False)
            named = f"{directory}/tokenizer_config.json: chat_template".encode()
            return [run.returncode, named in run.stderr]

    def refusals(self, template):
        """A directory with any other template is refused by the file's name; Qwen2.5's may be in a list."""
        def listed(**named):
            return [{"name": name, "template": text} for name, text in named.items()]
        base = template.replace(self.reference.INSTRUCT, self.reference.BASE)
        others = [template[:-2], template + "\n\n", template + " ", template.replace("assistant", "model", 1),
                  template.replace("Alibaba", "nobody"), "", "{{ messages }}", [], listed(rag=template),
                  listed(default=""), listed(default=template, tool_use=base)]
        for other in others:
            self.same("refusal", other, [1, True], self.with_template(other))
        for taken in (listed(default=template), listed(rag="", default=template, tool_use=template)):
            self.same("list", taken, [0, False], self.with_template(taken))
        print(f"  {len(others)} other templates refused, 2 lists taken")


def main():
    try:
        import jinja2  # noqa: F401
        import tokenizers
    except ImportError as e:
        print(f"skipped: {sys.executable} has no {e.name}; "
              "cmake -DTOKENIZERS_PYTHON=... names another python")
        return SKIPPED
    quick = sys.argv[2:] == ["quick"]
    count = 2000 if quick else int(sys.argv[2]) if len(sys.argv) > 2 else 100000
    failed = passed = 0
    for directory in (GOLDEN, REAL):
        if not os.path.isdir(directory):
            print(f"{directory} is not here: the small vocabulary only")
            continue
        print(f"{os.path.relpath(directory)} against tokenizers {tokenizers.__version__}")
        check = Check(sys.argv[1], directory)
        texts = cases.texts(count, check.added, seed=11)
        check.encode(texts + cases.real_texts([CHECKOUT, SHARED], count // 3))
        check.saved(texts[:2000])
        step = 97 if quick or directory == GOLDEN else 1
        check.encode([f(chr(c)).encode() for c in range(0, 0x110000, step) if not 0xd800 <= c < 0xe000
                      for f in AROUND])
        check.decode(count // 20)
        if template := check.reference.chat_template():
            check.chats("chat=Qwen2.5 Instruct", template, count // 50)
            check.chats("chat=Qwen2.5", template.replace(check.reference.INSTRUCT, check.reference.BASE),
                        count // 200)
        if template and directory == REAL:
            check.chats("chat", template, count // 200)
            check.refusals(template)
        passed, failed = passed + (check.failed == 0), failed + check.failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
