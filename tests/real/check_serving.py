#!/usr/bin/env python3
"""A server under its clients from PyPI: lm-eval by launch/evaluate, whose answers and numbers must be those
of lm-eval on the same model in transformers, and OpenAI's client.

usage: check_serving.py WUNENG
Ends with status 77 (skipped) where this python has no lm-eval, openai, torch, transformers or accelerate.
"""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "serve"))
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
               "TOKENIZERS_PARALLELISM": "false", "NO_PROXY": "127.0.0.1"}
try:
    import accelerate  # noqa: F401
    import lm_eval
    import lm_eval.tasks
    import openai
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as e:
    print(f"skipped: {e}; cmake -DEVALUATION_PYTHON=... names a python with lm-eval[api], openai, torch, "
          "transformers and accelerate")
    sys.exit(77)
import numpy as np  # noqa: E402
from models import chat_model  # noqa: E402
from server import PROGRAM, Server, run  # noqa: E402

LENGTH = 256  # of a request in transformers; the harness takes two tokens off the server's
WITHIN = 1e-4
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
WORDS = ("state head reads the query café 东京 attention token 7 42 and so on, of\nkeys values über it is not "
         "really clear what <|im_start|> means here").split(" ")

CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{train: {0}/choice.jsonl, test: {0}/choice.jsonl}}}}
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 2
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {0}/rolling.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
GENERATE = """
task: local_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {0}/generate.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["a", "\\n", "no such thing"], max_gen_toks: 40, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
TASKS = {"local_choice": CHOICE, "local_rolling": ROLLING, "local_generate": GENERATE}


def write_tasks(directory):
    rng = np.random.default_rng(4)

    def text(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    documents = {
        "choice": [{"question": text(20), "choices": [text(4) for _ in range(4)],
                    "label": int(rng.integers(4))} for _ in range(25)],
        "rolling": [{"text": text(most)} for most in (3, 10, 30, 100, 300, 600)],  # up to several windows
        "generate": [{"text": text(15)} for _ in range(25)]}
    os.makedirs(directory)
    for name, lines in documents.items():
        with open(os.path.join(directory, name + ".jsonl"), "w") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines))
    for name, task in TASKS.items():
        with open(os.path.join(directory, name + ".yaml"), "w") as f:
            f.write(task.format(directory))


def evaluate(model, tasks, out, *options):
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "..", "..", "launch", "evaluate"), model, *TASKS, "--include",
         tasks, "--out", out, "--wuneng", PROGRAM, "--context-length", str(LENGTH + 2), "--serve",
         "--device cpu", *options],
        capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"launch/evaluate: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    with open(os.path.join(out, "results.json")) as f:
        results = json.load(f)["results"]
    samples = {}
    for task in TASKS:
        with open(os.path.join(out, f"samples_{task}.jsonl")) as f:
            samples[task] = [json.loads(line) for line in f]
    return done.stdout, results, samples


def check_harness(model, root):
    tasks = os.path.join(root, "tasks")
    write_tasks(tasks)
    manager = lm_eval.tasks.TaskManager(include_path=tasks)
    for name, options, chat in (("", (), False), ("in chats, ", ("--chat", model), True)):
        out = os.path.join(root, "out_chats" if chat else "out")
        shown, results, samples = evaluate(model, tasks, out, *options)
        theirs = lm_eval.simple_evaluate(
            "hf", {"pretrained": model, "dtype": "float32", "max_length": LENGTH, "device": "cpu"},
            tasks=list(TASKS), task_manager=manager, log_samples=True, apply_chat_template=chat,
            fewshot_as_multiturn=chat, batch_size=1)
        worst, greedy, texts, count = 0, 0, 0, 0
        for task in TASKS:
            def number(sample):
                return sample["doc_id"]
            ours = sorted(samples[task], key=number)
            for a, b in zip(ours, sorted(theirs["samples"][task], key=number), strict=True):
                for x, y in zip(a["filtered_resps"], b["filtered_resps"], strict=True):
                    count += 1
                    if task == "local_generate":
                        texts += x == y
                        if x != y:
                            print(repr(x), repr(y))
                    elif task == "local_choice":
                        worst = max(worst, abs(float(x[0]) - float(y[0])))
                        greedy += (str(x[1]) == "True") == bool(y[1])
                    else:
                        worst = max(worst, abs(float(x) / float(y) - 1))  # of up to thousands of tokens
        yield (f"lm-eval, {name}log-likelihoods in {count} answers (largest difference {worst:.1e})",
               worst <= WITHIN and count == 131)
        yield f"lm-eval, {name}whether they are greedy ({greedy} of 100)", greedy == 100
        yield f"lm-eval, {name}texts until a stop string ({texts} of 25)", texts == 25
        for task, values in theirs["results"].items():
            for metric, value in values.items():
                if isinstance(value, float) and "_stderr" not in metric:
                    mine = results[task][metric]
                    yield (f"lm-eval, {name}{task} {metric}: {mine:.6g}",
                           abs(mine - value) <= WITHIN * max(1, abs(value)))
        yield f"the table has them ({name or 'plain'})", all(f"| {task} |" in shown for task in TASKS)


def check_openai(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    ask = {"model": "model", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 20, "seed": 1}
    answer = client.chat.completions.create(**ask)
    streamed = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True)]
    yield ("openai: a chat, whole and streamed", answer.choices[0].message.content == "".join(streamed)
           and answer.usage.completion_tokens > 0 and len(streamed) > 5)
    scored = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    yield "openai: log-probabilities of a chat", len(scored[0].top_logprobs) == 3 and scored[0].logprob < 0
    plain = client.completions.create(model="model", prompt=["So it", [5, 6]], max_tokens=5, echo=True,
                                      logprobs=2)
    yield ("openai: completions of a text and of tokens", len(plain.choices) == 2
           and plain.choices[0].text.startswith("So it")
           and plain.choices[0].logprobs.token_logprobs[0] is None)
    newer = client.chat.completions.create(model="model", messages=ask["messages"], n=2, stop=["x"],
                                           max_completion_tokens=3, temperature=0.5, top_p=0.9)
    yield "openai: several choices", len(newer.choices) == 2
    text = answer.choices[0].message.content
    stop = next(c for c in text[2:] if c != "\ufffd")
    with client.chat.completions.stream(**ask, stop=stop) as stream:
        final = stream.get_final_completion()
    yield "openai: its own collector of streams", final.choices[0].message.content == text[:text.index(stop)]
    yield "openai: models", [m.id for m in client.models.list()] == ["model"]
    for kind, error, action in (
            ("another model", openai.NotFoundError, lambda: client.completions.create(model="x", prompt="a")),
            ("an unknown option", openai.BadRequestError,
             lambda: client.completions.create(model="model", prompt="a", extra_body={"foo": 1}))):
        try:
            action()
            good = False
        except error as e:
            good = e.body["message"] and e.type == "invalid_request_error"
        yield f"openai: {kind} is its {error.__name__}", good
    client.close()


def checks(root):
    model = chat_model(os.path.join(root, "model"))
    path = os.path.join(model, "tokenizer_config.json")
    with open(path) as f:
        settings = json.load(f)
    with Server(model, "--chat-template", "Qwen2.5") as server:
        yield from check_openai(server)
        yield "nothing is left", server.settled()
    with open(path, "w") as f:
        json.dump({**settings, "chat_template": TEMPLATE}, f)
    yield from check_harness(model, root)


def main():
    return run(checks)


if __name__ == "__main__":
    sys.exit(main())
