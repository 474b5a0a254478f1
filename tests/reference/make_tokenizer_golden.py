#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: a small vocabulary trained on tokenizer_cases.py's texts, and what PyPI's
`tokenizers` and jinja2 make of texts and chats with it.

Run by hand, never by the tests: needs tokenizers and jinja2 (made with 0.23.3 and 3.1.6), and ../shared/data
for the Instruct models' chat template.
  vocab.json, merges.txt, tokenizer_config.json, tokenizer.json   the same tokenizer in both forms
  texts.json   [[text as hexadecimal bytes, ids, decoded, decoded without special tokens], ...]
  chats.json   [{"messages", "tools", "add_generation_prompt", "base": rendered, "instruct": rendered, "ids",
               "mask"}, ...];
               ids and mask are the Instruct template's
"""
import json
import os

import tokenizer_cases as cases
import tokenizer_reference as reference

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "tokenizer")
VOCABULARY = 700
ADDED = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False),
         ("</tool_call>", False),
         ("<|fim_prefix|>", False), ("<|im_start|>>", False)]  # the last one to see that the longest is taken


def main():
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
    main()
