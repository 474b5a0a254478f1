"""bench_generate.py BENCH_GENERATE [PROMPT TOKENS]: generation of a sequence on the CPU against transformers.

Both run a random Qwen2 model of SmolLM2-135M's size in one run, in turns, greedily, and give the same tokens.
Prints seconds of the prompt and of a token, tokens a second, their ratio, and the share of the memory's speed
at which our steps read the weights. Needs PyPI's torch and transformers. Threads: WUNENG_THREADS, else 2.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
import transformers


def make_model(directory):
    torch.manual_seed(1)
    # initializer_range: with the usual 0.02 a random model repeats one token.
    config = transformers.Qwen2Config(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5,
        max_position_embeddings=8192, initializer_range=0.1, bos_token_id=None, eos_token_id=None)
    transformers.Qwen2ForCausalLM(config).float().save_pretrained(directory)


def with_transformers(directory, dtype, prompt, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    ids = torch.tensor([[(t * 7919 + 17) % 49152 for t in range(prompt)]])

    def run(count):
        begin = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                 max_new_tokens=count, min_new_tokens=count, pad_token_id=0)
        return time.perf_counter() - begin, out[0, prompt:].tolist()

    run(2)
    first, _ = run(1)
    whole, out = run(tokens)
    return first, (whole - first) / (tokens - 1), out


def main():
    bench, prompt, tokens = sys.argv[1], *(int(x) for x in (sys.argv[2:] or ("128", "64")))
    threads = os.environ.setdefault("WUNENG_THREADS", "2")
    torch.set_num_threads(int(threads))
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {threads} threads, "
          f"prompt {prompt}, {tokens} tokens")
    with tempfile.TemporaryDirectory() as directory:
        make_model(directory)
        for name, dtype in ("f32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.bfloat16):
            ours, theirs = [], []
            for _ in range(3):
                done = subprocess.run([bench, directory, name, str(prompt), str(tokens)], check=True,
                                      capture_output=True, text=True)
                ours.append(json.loads(done.stdout))
                theirs.append(with_transformers(directory, dtype, prompt, tokens))
            best = min(ours, key=lambda o: o["step_seconds"])
            first, each, out = min(theirs, key=lambda t: t[1])
            same = sum(a == b for a, b in zip(out, best["tokens"]))
            print(f"{name}: prompt {best['prompt_seconds']:.3f} s, transformers {first:.3f} s; token "
                  f"{best['step_seconds'] * 1e3:.1f} ms, transformers {each * 1e3:.1f} ms: "
                  f"{each / best['step_seconds']:.2f} times as fast; "
                  f"{best['share_of_memory_speed']:.0%} of {best['memory_gb_per_second']:.1f} GB/s; "
                  f"{same} of {tokens} tokens equal")


if __name__ == "__main__":
    main()
