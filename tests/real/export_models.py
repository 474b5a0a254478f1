"""Models for check_export.py: random ones with every option, exported by wuneng, loaded by transformers."""
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "reference"))
import check_models as options  # noqa: E402
import wuneng_reference as ref  # noqa: E402
from model_files import config_json, write_model  # noqa: E402

FIELDS = transformers.modeling_outputs.CausalLMOutputWithPast.__dataclass_fields__
CACHE = "cache" if "cache" in FIELDS else "past_key_values"  # transformers has changed the name
PROGRAM = os.path.abspath(sys.argv[1])
# A random model whose states feed themselves over many chunks is so sensitive that f32 cannot meet a bound:
# what feeds them is made smaller.
FEEDBACK, FEEDING = 0.3, ("value_attention", "value_middle", "lambda")
LLAMA3 = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}


def wuneng(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, errors="replace",
                          timeout=120, check=False)
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
    for cases in (options.families, options.head_counts, options.presets, options.mixed_layers,
                  options.rwkv7, options.initial_states):
        for option in cases():
            if option.get("mixer") != "attention":  # check_export.py, check_attention
                yield option, {}
    for option in options.presets():
        yield {**option, "state_norm": "none"}, {}
        yield option, YARN
        yield option, LLAMA3
        yield option, LINEAR
        yield {**option, "learn_initial_state": True, "state_read": "quadratic", "chunk": 7}, {}


def make_model(root, name, option, change=None, seed=0):
    """A random model, as `wuneng convert` exports it; its directory. change: of its config.json."""
    raw, exported = os.path.join(root, f"raw_{name}"), os.path.join(root, name)
    config = ref.Config(**option)
    model = ref.init_model(config, np.random.default_rng(seed))
    for layer in model["layers"]:
        layer.update({name: FEEDBACK * layer[name] for name in FEEDING if name in layer})
    write_model(raw, config, model)
    with open(os.path.join(raw, "config.json"), "w") as f:
        json.dump({**config_json(config), **(change or {})}, f)
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


def few_models():
    """name -> option: one of each kind."""
    full, lean, literal = options.presets()
    mixers = ((0, "attention"), (2, "wuneng"))
    return {"full": full, "lean": lean, "literal": {**literal, "learn_initial_state": True},
            "arwkv": dict(mixer="rwkv7", learn_initial_state=True),
            "rwkv7": dict(mixer="rwkv7", rwkv_gate=True, rwkv_group_norm=True, tie_word_embeddings=False),
            "mixed": dict(mixer="rwkv7", num_layers=4, layer_mixers=mixers, state_heads=4, chunk=4)}
