#!/usr/bin/env python3
"""Models of `wuneng convert` in transformers: logits against `wuneng logits`, cached against uncached
generation, batches with padding, training, bf16, and save_pretrained back into wuneng.

usage: check_export.py WUNENG [quick]
Ends with status 77 (skipped) where this python has no torch, transformers or h5py.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "reference"))
import check_models as options  # noqa: E402
import wuneng_reference as ref  # noqa: E402
from model_files import config_json, write_model  # noqa: E402

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
try:
    import h5py
    import torch
    import transformers
    from transformers import AutoModelForCausalLM
except ImportError as e:
    print(f"skipped: {e}: expected a python with torch, transformers, h5py")
    sys.exit(77)

FIELDS = transformers.modeling_outputs.CausalLMOutputWithPast.__dataclass_fields__
CACHE = "cache" if "cache" in FIELDS else "past_key_values"  # transformers has changed the name
PROGRAM = os.path.abspath(sys.argv[1])
QUICK = "quick" in sys.argv[2:]
TOKENS = 90        # several chunks of the recurrence
WITHIN = 1e-4      # largest difference of a logit; the models' logits are of size 1 to 10
# A random model whose states feed themselves over many chunks is so sensitive that f32 cannot meet that: what
# feeds them is made smaller. The bound of those that still are is how far their logits move, times ROUNDINGS,
# when their parameters move by half a unit of the last place (check_models.py has the same).
FEEDBACK, FEEDING = 0.3, ("value_attention", "value_middle", "lambda")
ROUNDINGS, HALF_A_UNIT, LARGEST_SHARE_OF_SENSITIVE_MODELS = 16, 2.0 ** -24, 0.05
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}


def wuneng(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wuneng {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def logits_of(model, tokens, root):
    """By wuneng. tokens: list of ids -> [T, vocabulary]."""
    source, out = os.path.join(root, "tokens.json"), os.path.join(root, "logits.h5")
    with open(source, "w") as f:
        json.dump([int(t) for t in tokens], f)
    wuneng("logits", model, "--tokens", source, "--out", out, "--device", "cpu")
    with h5py.File(out, "r") as f:
        return torch.from_numpy(f["logits"][()])


def every_option():
    """Options of wuneng_reference.Config, and changes of config.json."""
    for i, option in enumerate(options.combinations()):
        yield {**option, "state_norm_eps": (0.01, 0.1)[i % 2]}, {}
    for cases in (options.head_counts, options.presets, options.mixed_layers, options.rwkv7,
                  options.initial_states):
        for option in cases():
            yield option, {}
    for option in options.presets():
        yield {**option, "state_norm": "none"}, {}
        yield option, YARN
        yield {**option, "learn_initial_state": True, "state_read": "quadratic", "chunk": 7}, {}


def make_model(root, number, option, change):
    """A random model, as `wuneng convert` exports it; its directory."""
    raw, exported = os.path.join(root, f"raw{number}"), os.path.join(root, f"model{number}")
    config = ref.Config(**option)
    model = ref.init_model(config, np.random.default_rng(number))
    for layer in model["layers"]:
        layer.update({name: FEEDBACK * layer[name] for name in FEEDING if name in layer})
    write_model(raw, config, model)
    with open(os.path.join(raw, "config.json"), "w") as f:
        json.dump({**config_json(config), **change}, f)
    wuneng("convert", raw, exported)
    return exported


def load(directory, **how):
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **how).eval()


def difference(a, b):
    return float((a - b).abs().max())


def random_tokens(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, ref.Config.vocab_size, shape))


def cached_logits(model, tokens, cuts, mask=None):
    """The logits of calls with a cache, which end at the columns `cuts`."""
    out, cache, begin = [], None, 0
    for end in cuts:
        known = None if mask is None else mask[:, :end]
        result = model(tokens[:, begin:end], attention_mask=known, use_cache=True,
                       **({} if cache is None else {CACHE: cache}))
        cache, begin = result[CACHE], end
        out.append(result.logits)
    return torch.cat(out, 1)


@torch.no_grad()
def check_logits(model, directory, root, seed):
    """{what: largest difference} of one model."""
    tokens = random_tokens(seed, 3, TOKENS)
    found = {"wuneng": difference(model(tokens[:1]).logits[0], logits_of(directory, tokens[0], root))}
    whole = model(tokens, use_cache=False).logits
    steps = [1, 2, 40, 41, 75] + list(range(76, TOKENS + 1))
    found["cached"] = difference(cached_logits(model, tokens, steps), whole)
    # Rows of 90, 57 and 1 tokens, padded on the left, on the right, and with holes.
    lengths = [TOKENS, 57, 1]
    left, right, holes = (torch.zeros(3, TOKENS, dtype=torch.long) for _ in range(3))
    for row, length in enumerate(lengths):
        left[row, TOKENS - length:], right[row, :length] = 1, 1
        holes[row, np.random.default_rng(seed).permutation(TOKENS)[:length]] = 1
    for name, mask in (("left", left), ("right", right), ("holes", holes)):
        for cached in (False, True):
            out = (cached_logits(model, tokens, [5, 39, TOKENS - 2, TOKENS - 1, TOKENS], mask) if cached
                   else model(tokens, attention_mask=mask).logits)
            worst = 0.0
            for row in range(3):
                there = mask[row].bool()
                alone = model(tokens[row][there][None]).logits[0]
                worst = max(worst, difference(out[row][there], alone))
            found[name + " padding" + ", cached" * cached] = worst
    return found


@torch.no_grad()
def sensitivity(model, seed):
    """How far logits move, at most, when all parameters move by half a unit of the last place."""
    tokens, moves = random_tokens(seed, 3, TOKENS), []
    plain, kept = model(tokens).logits, [p.clone() for p in model.parameters()]
    for i in range(2):
        torch.manual_seed(i)
        for p, k in zip(model.parameters(), kept):
            p.copy_(k * (1 + HALF_A_UNIT * torch.randn_like(k)))
        moves.append(difference(model(tokens).logits, plain))
    for p, k in zip(model.parameters(), kept):
        p.copy_(k)
    return max(moves)


def check_all_logits(root):
    cases = list(every_option())
    cases = cases[::23] + cases[-9:] if QUICK else cases
    worst, sensitive = {}, 0
    for number, (option, change) in enumerate(cases):
        directory = make_model(root, number, {"num_layers": 2, **option}, change)
        model = load(directory)
        found = check_logits(model, directory, root, number)
        largest = max(found.values())
        if not largest <= WITHIN and largest <= ROUNDINGS * sensitivity(model, number):
            sensitive += 1
            continue
        for name, value in found.items():
            if not value <= WITHIN:
                print(f"{option} {change}: {name}: {value:.2e}")
            worst[name] = max(worst.get(name, 0), value)
    for name, value in worst.items():
        yield f"{len(cases) - sensitive} models, {name}: largest difference {value:.1e}", value <= WITHIN
    yield (f"{sensitive} of {len(cases)} models are too sensitive, and within {ROUNDINGS} roundings",
           sensitive <= LARGEST_SHARE_OF_SENSITIVE_MODELS * len(cases))


PARTS = [check_all_logits]


def main():
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    torch.set_num_threads(1)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as root:
        os.environ["HF_MODULES_CACHE"] = os.path.join(root, "modules")
        for part in PARTS:
            for name, good in part(root):
                print(("ok     " if good else "FAILED ") + name, flush=True)
                passed += bool(good)
                failed += not good
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
