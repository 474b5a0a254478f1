#!/usr/bin/env python3
"""Writes tests/golden/tokenizer and tests/golden/tokenizer_schemes.

tests/golden/tokenizer: a small vocabulary trained on tokenizer_cases.py's texts, and what PyPI's
`tokenizers` and jinja2 make of texts and chats with it.

Run by hand, never by the tests: needs tokenizers and jinja2 (made with 0.23.3 and 3.1.6), and ../shared/data
for the Instruct models' chat template.
  vocab.json, merges.txt, tokenizer_config.json, tokenizer.json   the same tokenizer in both forms
  texts.json   [[text as hexadecimal bytes, ids, decoded, decoded without special tokens], ...]
  chats.json   [{"messages", "tools", "add_generation_prompt", "base": rendered, "instruct": rendered, "ids",
               "mask"}, ...];
               ids and mask are the Instruct template's

tests/golden/tokenizer_schemes/NAME, for each scheme of tokenizer_schemes.py: tokenizer.json, of a still
smaller vocabulary, and texts.json: {"before", "after": ids that `tokenizers` adds to a text, "texts": [[text
as hexadecimal bytes, ids, text of the ids in reverse order], ...]}

usage: make_tokenizer_golden.py [qwen] [schemes]    by default both
"""
import json
import os
import sys

import tokenizer_cases as cases
import tokenizer_reference as reference
import tokenizer_schemes as schemes

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "tokenizer")
VOCABULARY = 700
ADDED = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False),
         ("</tool_call>", False),
         ("<|fim_prefix|>", False), ("<|im_start|>>", False)]  # the last one to see that the longest is taken


def scheme(name):
    import tokenizers
    directory = os.path.join(os.path.dirname(GOLDEN), "tokenizer_schemes", name)
    os.makedirs(directory, exist_ok=True)
    names = schemes.names_of(name)
    schemes.write(directory, schemes.train(
        name, [t.decode(errors="replace") for t in cases.texts(2000, names, seed=7)], 400))
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    rows = []
    for text in schemes.SAMPLES + cases.texts(100, names, seed=2):
        if len(text) > 300:
            continue
        ids = tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids
        rows.append([text.hex(), ids, tokenizer.decode(ids[::-1], skip_special_tokens=False)])
    plain, around = (tokenizer.encode("1", add_special_tokens=more).ids for more in (False, True))
    at = next(i for i in range(len(around)) if around[i:i + len(plain)] == plain)
    with open(os.path.join(directory, "texts.json"), "w") as f:
        lines = ",\n".join(json.dumps(row) for row in rows)
        f.write(f'{{"before": {around[:at]}, "after": {around[at + len(plain):]}, "texts": [\n{lines}\n]}}\n')


def qwen():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    names = [name for name, _ in ADDED]
    trained = reference.scheme(models.BPE(), {})
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator([t.decode(errors="replace") for t in cases.texts(3000, names, seed=7)],
                                trainer)
    trained.model.save(GOLDEN)
    template = reference.chat_template()
    count = trained.get_vocab_size()
    added = {str(count + i): dict(content=name, lstrip=False, normalized=False, rstrip=False,
                                  single_word=False, special=special)
             for i, (name, special) in enumerate(ADDED)}
    with open(os.path.join(GOLDEN, "tokenizer_config.json"), "w") as f:
        json.dump(dict(add_prefix_space=False, added_tokens_decoder=added, tokenizer_class="Qwen2Tokenizer"),
                  f, indent=1)
        f.write("\n")
    tokenizer = reference.load(GOLDEN)
    tokenizer.save(os.path.join(GOLDEN, "tokenizer.json"), pretty=False)
    assert isinstance(tokenizer, Tokenizer)

    rows = []
    for text in cases.texts(400, names, seed=1):
        ids = tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids
        shuffled = ids[::-1]  # characters fall apart: decoding must mend them
        rows.append([text.hex(), ids, tokenizer.decode(shuffled, skip_special_tokens=False),
                     tokenizer.decode(shuffled)])
    write("texts.json", rows)
    rows = []
    for messages, tools, prompt in cases.chats():
        base, instruct = (reference.render(t, messages, tools, prompt)
                          for t in (template.replace(reference.INSTRUCT, reference.BASE), template))
        ids, mask = reference.assistant_mask(tokenizer, instruct)
        rows.append(dict(messages=messages, tools=tools, add_generation_prompt=prompt, base=base,
                         instruct=instruct, ids=ids, mask=mask))
    write("chats.json", rows)


def write(name, rows):
    with open(os.path.join(GOLDEN, name), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows) + "\n]\n")


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["qwen", "schemes"]
    if "qwen" in wanted:
        qwen()
    for each in schemes.SCHEMES if "schemes" in wanted else ():
        scheme(each)
