"""Qwen2.5's tokenizer put together from PyPI's `tokenizers`, and its chat template run by jinja2 as
transformers does."""
import json
import os
import re

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
REAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "data",
                    "qwen2.5-tokenizer")
INSTRUCT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
BASE = "You are a helpful assistant."


def scheme(model, added):
    """added: as tokenizer_config.json's added_tokens_decoder."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    t = Tokenizer(model)
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                                        use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    for _, token in sorted(added.items(), key=lambda item: int(item[0])):
        a = AddedToken(token["content"], single_word=False, lstrip=False, rstrip=False, normalized=False,
                       special=token["special"])
        (t.add_special_tokens if token["special"] else t.add_tokens)([a])
    return t


def load(directory):
    from tokenizers import models
    with open(os.path.join(directory, "tokenizer_config.json")) as f:
        config = json.load(f)
    model = models.BPE.from_file(os.path.join(directory, "vocab.json"), os.path.join(directory, "merges.txt"))
    tokenizer = scheme(model, config["added_tokens_decoder"])
    for name, token in config["added_tokens_decoder"].items():
        assert tokenizer.token_to_id(token["content"]) == int(name), (name, token)
    return tokenizer


def chat_template():
    """The Instruct models' template, from Qwen2.5's own directory; None where that is not there."""
    path = os.path.join(REAL, "tokenizer_config.json")
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)["chat_template"]


def render(template, messages, tools, add_generation_prompt, **variables):
    """transformers' environment: its tojson leaves <, >, & and non-ASCII as they are."""
    import datetime

    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[loopcontrols])
    def refuse(message):
        raise jinja2.TemplateError(message)
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    environment.globals.update(raise_exception=refuse,
                               strftime_now=lambda form: datetime.datetime.now().strftime(form))
    return environment.from_string(template).render(messages=messages, tools=tools,
                                                    add_generation_prompt=add_generation_prompt, **variables)


CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>\n)"


def assistant_mask(tokenizer, text, spans=CHATML):
    """ids, and of each whether any of its characters is the assistant's content or the end of its turn."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    spans = [m.span(1) for m in re.finditer(spans, text, re.S)]
    return encoded.ids, [int(any(a < end and b > begin for begin, end in spans)) for a, b in encoded.offsets]
