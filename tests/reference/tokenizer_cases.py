"""Texts and chats that try a tokenizer: real ones, and random ones of every kind that has broken one before.

Everything is a pure function of its seed, so a failure names the case.
"""
import os
import random

SENTENCES = [
    "Hello world", " Hello world", "\n", 'print("<|endoftext|>")',
    "I'm sure they'Ll say it's what we'VE 'd done, y'all'RE",
    "a\r\nb\r\n\r\n  c\t\td   \n \n   e   ",
    "for (int i = 0; i < 10; ++i) {\n\tsum += a[i] * 3.14159e-7;  // +=\n}\n",
    "def f(x):\n    return {'k': [1, 2, 3]}\n\n\nclass A:\n    pass", "https://example.org/a_b?c=%20d&e=1#f",
    "Straße, naïve café, Ærøskøbing, żółć, Iğdır, ŉ ſ ﬆ ﬁ", "Привет, мир! Ёлка и съезд.",
    "Ελληνικά: άνθρωπος, ΐ ΰ",
    "你好,世界。我是一个语言模型;今天是2024年5月17日!", "今日はとても良い天気ですね。カタカナ ガギグ ﾊﾝｶｸ", "한국어 문장입니다. 각 값",
    "हिन्दी में क्षत्रिय और ज़िंदगी", "ภาษาไทยไม่มีช่องว่าง", "العربية مُشَكَّلَةٌ ٠١٢٣", "עברית נִקּוּד",
    "தமிழ் கொ ோ", "မြန်မာ", "ខ្មែរ",
    "👩‍👩‍👧‍👦 👍🏽 🇨🇳🇫🇷 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 #️⃣", "½ ² Ⅷ ⑨ ٣ 一二三 12345 1,234.5", "∑ᵢ xᵢ² ≤ ∫ f(x)dx; \u212b\u2126 \u2f00",
    "x\u00a0y\u2003z\u3000w\u200bv\u180eu\u2028t\u2029s\u0085r\ufeffq",
    "<tool_call>\n{}\n</tool_call><|im_start|>user<|im_end|>",
    "<|im_start|<|im_end|>>x<|endoftext|><|endoftext|> <|fim_prefix|>", "", " ", "  ", "\t", "\r", "\r\n\r\n",
    "'", "''s", "\x00\x01\x7f",
]
SCRIPTS = [(0x20, 0x7e), (0x61, 0x7a), (0x41, 0x5a), (0x30, 0x39), (0x20, 0x2f), (0xa0, 0xff), (0x100, 0x24f),
           (0x300, 0x36f), (0x370, 0x3ff),
           (0x400, 0x4ff), (0x530, 0x5ff), (0x600, 0x6ff), (0x700, 0x8ff), (0x900, 0x97f), (0x980, 0xdff),
           (0xe00, 0xeff), (0xf00, 0xfff),
           (0x1000, 0x109f), (0x1100, 0x11ff), (0x1680, 0x18af), (0x1ab0, 0x1aff), (0x1c80, 0x1cff),
           (0x1dc0, 0x1fff), (0x2000, 0x206f),
           (0x2070, 0x214f), (0x2150, 0x22ff), (0x2460, 0x27bf), (0x2f00, 0x30ff), (0x3130, 0x33ff),
           (0x4e00, 0x9fff), (0xa640, 0xaaff),
           (0xac00, 0xd7ff), (0xe000, 0xe0ff), (0xf900, 0xfaff), (0xfb00, 0xfeff), (0xff00, 0xffff),
           (0x10000, 0x10fff), (0x11000, 0x11fff),
           (0x13000, 0x1345f), (0x16100, 0x16fff), (0x1b000, 0x1b2ff), (0x1d100, 0x1d7ff), (0x1e000, 0x1e9ff),
           (0x1f000, 0x1faff),
           (0x20000, 0x323af), (0xe0000, 0xe01ef), (0, 0x10ffff)]
SPACES = [" ", " ", " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\r", "\u00a0", "\u3000", "\u2028",
          "\u180e", "\u0085", "\u200b", "\v", "\f"]
PIECES = ["'s", "'T", "'re", "'VE", "'m", "'ll", "'D", "'ſ", "’s", "\u0301", "\u0338", "\u0345", "\u1161",
          "\u11a8", "\u200d", "\ufe0f", "a", "é",
          "e\u0301", "한", "1", "!", "-", "\"", "(", "::", "=>", "//", "http", "the", " the", "ing", "Hello",
          "中", "文", "🙂"]
BROKEN = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc1", b"\xc2", b"\xe0\x80\x80", b"\xe0\xa0", b"\xe2\x82",
          b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x90\x80",
          b"\xf0\x80\x80\x80", b"\xf0\x9f\x99", b"\xf4\x90\x80\x80", b"\xf5", b"\xff", b"\xfe"]


def random_text(generator, added):
    """Bytes, mostly valid UTF-8."""
    r = generator
    parts, kind = [], r.randrange(10)
    script = r.choice(SCRIPTS)
    for _ in range(r.choice([1, 2, 3, 5, 8, 13, 30, 90])):
        pick = r.random()
        if kind == 0 and pick < 0.3:
            parts.append(r.choice(added))
        elif kind == 1 and pick < 0.2:
            parts.append(r.choice(BROKEN))
            continue
        elif pick < 0.2:
            parts.append(r.choice(SPACES))
        elif pick < 0.3:
            parts.append(r.choice(PIECES))
        elif pick < 0.33:
            parts.append(r.choice(added)[r.randrange(3):r.randrange(3, 30)])
        elif pick < 0.36:
            parts.append(r.choice(SENTENCES)[:r.randrange(1, 40)])
        else:
            if r.random() < 0.2:
                script = r.choice(SCRIPTS)
            parts.append("".join(chr(c) for c in (r.randint(*script) for _ in range(r.randint(1, 8)))
                                 if not 0xd800 <= c < 0xe000))
        parts[-1] = parts[-1].encode()
    if kind == 2:  # cut anywhere
        whole = b"".join(parts)
        a, b = r.randint(0, len(whole)), r.randint(0, len(whole))
        return whole[min(a, b):max(a, b)]
    return b"".join(parts)


def texts(count, added, seed=0):
    generator = random.Random(seed)
    return [s.encode() for s in SENTENCES] + [random_text(generator, added) for _ in range(count)]


def real_texts(folders, count):
    """Code and prose: pieces of a few lines, and whole files up to 64 KiB, from what lies below the
    folders."""
    r, pieces = random.Random(4), []
    for folder in folders:
        for directory, inside, names in os.walk(folder):
            inside[:] = sorted(name for name in inside if name not in (".git", "build"))
            for name in sorted(names):
                if not name.endswith((".cpp", ".h", ".py", ".md", ".txt", ".json", ".cmake")):
                    continue
                with open(os.path.join(directory, name), "rb") as f:
                    whole = f.read(1 << 21)
                pieces.append(whole[:1 << 16])
                lines, at = whole.split(b"\n"), 0
                while at < len(lines):
                    step = r.choice([1, 1, 2, 4, 16])
                    pieces.append(b"\n".join(lines[at:at + step]) + b"\n")
                    at += step
    r.shuffle(pieces)
    return pieces[:count]


TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Wetter für <Ort> & Zeit", "parameters": {
        "type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "integer", "default": 3},
            "scale": {"enum": [1, 2.5, None, True]}},
    "required": ["city"]}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {
    "city": "Zürich \"1\"\n", "x": [1.0, -0.0, 1e-5, 1e16, 1e15, 0.1, {}, []]}}}


def message(role, content, **more):
    return dict(role=role, content=content, **more)


def chats(seed=0, count=40):
    """(messages, tools, add_generation_prompt)"""
    user, tool = message("user", "Hi there"), message("tool", "{\"t\": 20}")
    out = [
        ([user], None, True), ([user], [], False), ([message("system", "Be brief."), user], None, True),
        ([user, message("assistant", "Hello!"), user, message("assistant", "")], None, False),
        ([user, message("assistant", "\n\n  \n x"), user, message("assistant", " y"),
          message("assistant", "\r\n\u3000\n")], None, True),
        ([message("assistant", "first\n")], None, False),
        ([message("system", "a"), message("system", "b"), user], [TOOL], True),
        ([user], [TOOL, {"a": "é\u2028</tools>", "\x01": 12345678901234567}], True),
        ([user, message("assistant", "", tool_calls=[CALL]), tool, message("assistant", "20 degrees")],
         [TOOL], False),
        ([user, message("assistant", None, tool_calls=[CALL, {"name": "f", "arguments": "{\"a\": 1}"}]), tool,
          tool, user], [TOOL], True),
        ([user, message("assistant", "\nLet me see.", tool_calls=[CALL]), tool], [TOOL], True),
        ([user, {"role": "assistant", "tool_calls": [CALL]}, tool, user, tool, tool], None, False),
        ([tool, user], None, True),
    ]
    r = random.Random(seed)
    for _ in range(count):
        messages = []
        for _ in range(r.randint(1, 7)):
            role = r.choice(["user", "assistant", "assistant", "tool", "system"])
            text = random_text(r, ["<tool_call>", "<|fim_pad|>"]).decode(errors="replace")
            messages.append(message(role, r.choice(["", "\n", " \n", "\n\n", "\u2000\n"]) + text))
            if role == "assistant" and r.random() < 0.4:
                messages[-1]["tool_calls"] = [CALL] * r.randint(0, 2)
        out.append((messages, r.choice([None, [TOOL]]), r.random() < 0.5))
    return out
