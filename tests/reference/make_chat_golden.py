#!/usr/bin/env python3
"""Writes tests/golden/chats.json: chats of chat_templates.py as jinja2 renders the published templates, with
the ids and assistant masks of PyPI's `tokenizers` for the vocabularies of tests/golden/tokenizer_schemes.

Run by hand, never by the tests: needs tokenizers, jinja2 and what chat_templates.py downloads. A row is
{"template", "tokenizer", "messages", "tools", "options", "text", "ids", "mask": a digit for each id}.
"""
import json
import os

import chat_templates
import tokenizer_reference as reference

GOLDEN = os.path.join(os.path.dirname(chat_templates.SCHEMES), "chats.json")
LONGEST = 1000  # characters


def rows():
    import tokenizers
    for name, (_, scheme, spans, _) in chat_templates.TEMPLATES.items():
        tokenizer = tokenizers.Tokenizer.from_file(
            os.path.join(chat_templates.SCHEMES, scheme, "tokenizer.json"))
        template = chat_templates.texts(name)[0]
        for chat in chat_templates.chats(name, 3, 8):
            messages, tools, prompt, options = chat
            if name == "Llama 3.2 Instruct":  # else it is today
                options["date_string"] = "26 Jul 2024"
            text = chat_templates.render(name, template, chat)
            if len(text) > LONGEST:
                continue
            ids, mask = reference.assistant_mask(tokenizer, text, spans)
            yield dict(template=name, tokenizer=scheme, messages=messages, tools=tools,
                       options=dict(add_generation_prompt=prompt, **options), text=text, ids=ids,
                       mask="".join(map(str, mask)))


if __name__ == "__main__":
    with open(GOLDEN, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows()) + "\n]\n")
