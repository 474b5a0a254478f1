#!/usr/bin/env python3
"""Models of `wuneng convert` in transformers: logits against `wuneng logits`, cached against uncached
generation, batches with padding, training, bf16, and save_pretrained back into wuneng.

usage: check_export.py WUNENG [quick]
Ends with status 77 (skipped) where this python has no torch, transformers or h5py.
"""
import glob
import json
import os
import re
import shutil
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, ".."))
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
try:
    import h5py  # noqa: F401
    import torch
    import transformers
except ImportError as e:
    print(f"skipped: {e}; cmake -DTRANSFORMERS_PYTHON=... names a python with torch, transformers and h5py")
    sys.exit(77)
from checks import run  # noqa: E402
from export_models import (CACHE, YARN, cached_logits, difference, every_option, few_models,  # noqa: E402
                           load, logits_of, make_model, random_tokens, ref, write_model, wuneng)
from transformers import AutoModelForCausalLM  # noqa: E402

DTYPE = "torch_dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56) else "dtype"
QUICK = "quick" in sys.argv[2:]
TOKENS = 90        # several chunks of the recurrence
WITHIN = 1e-4      # largest difference of a logit; the models' logits are of size 1 to 10
# A model that is too sensitive for that is bounded by how far its logits move, times ROUNDINGS, when its
# parameters move by half a unit of the last place (check_models.py has the same).
ROUNDINGS, HALF_A_UNIT, LARGEST_SHARE_OF_SENSITIVE_MODELS = 16, 2.0 ** -24, 0.05


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
        directory = make_model(root, f"model{number}", {"num_layers": 2, **option}, change, number)
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


def check_generation(root):
    length, new = 20, 12
    prompt = random_tokens(1, 3, length)
    for name, option in few_models().items():
        model = load(make_model(root, name + "_generates", option, {"eos_token_id": ref.Config.vocab_size}))

        def generate(tokens=prompt, count=new, **how):
            torch.manual_seed(3)
            return model.generate(tokens, max_new_tokens=count, pad_token_id=0, **{"do_sample": False, **how})

        greedy = generate()
        following = model(greedy[:, :-1]).logits[:, length - 1:].argmax(-1)
        yield (f"{name}: greedy tokens are those of the highest logits",
               torch.equal(greedy[:, length:], following))
        for what, how in (("greedy", {}), ("samples", {"do_sample": True, "top_k": 20, "top_p": 0.9}),
                          ("several samples", {"do_sample": True, "num_return_sequences": 2}),
                          ("beams", {"num_beams": 3})):
            yield (f"{name}: {what} with a cache are those without",
                   torch.equal(generate(**how), generate(use_cache=False, **how)))
        mask = torch.ones_like(prompt)
        mask[0, :7], mask[1, :19] = 0, 0
        padded = generate(attention_mask=mask)[:, length:]
        alone = [generate(prompt[i, mask[i].bool()][None])[0, -new:] for i in range(3)]
        yield f"{name}: a padded batch generates what its rows do", torch.equal(padded, torch.stack(alone))
        embedded = generate(None, inputs_embeds=model.get_input_embeddings()(prompt))
        yield f"{name}: so do embeddings", torch.equal(embedded, greedy[:, length:])
        seen = model(prompt[:, :11])[CACHE]
        yield f"{name}: and a cache that is there", torch.equal(generate(**{CACHE: seen}), greedy)


def check_errors(root):
    model = load(make_model(root, "errors", few_models()["full"]))
    tokens, cache = random_tokens(1, 3, 5), transformers.DynamicCache()
    seen = model(tokens)[CACHE]
    cases = [("another cache", dict(input_ids=tokens, **{CACHE: cache}), "expected a WunengCache, found D"),
             ("a mask of another length", dict(input_ids=tokens, attention_mask=torch.ones(3, 4)),
              "expected shape (3, 5), found (3, 4)"),
             ("a mask without the cache's tokens",
              dict(input_ids=tokens, attention_mask=torch.ones(3, 5), **{CACHE: seen}), "shape (3, 10)"),
             ("a cache of other rows", dict(input_ids=tokens[:2], **{CACHE: seen}), "2 rows, found 3"),
             ("no tokens", {}, "expected input_ids or inputs_embeds"),
             ("position_ids", dict(input_ids=tokens, position_ids=tokens), "unexpected keyword argument")]
    for name, inputs, expected in cases:
        try:
            model(**inputs)
            said = "nothing"
        except (TypeError, ValueError) as e:
            said = str(e)
        yield f"{name}: an error says so", expected in said


def check_training(root):
    """A step along the gradient lowers the loss by what the gradient says."""
    tokens = random_tokens(2, 2, TOKENS)
    mask = torch.ones_like(tokens)
    mask[0, :13], mask[1, 70:] = 0, 0
    labels = tokens.masked_fill(mask == 0, -100)
    for name, option in few_models().items():
        model = load(make_model(root, name + "_trains", option)).train()
        loss = model(tokens, attention_mask=mask, labels=labels).loss
        loss.backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
                   or not p.grad.any()]
        yield f"{name}: every parameter has a gradient {without}", not without
        squared = float(sum(p.grad.double().square().sum() for p in model.parameters()))
        moved = []
        with torch.no_grad():
            step = 2e-3 / squared  # the loss changes by about this much times the gradient's square
            for sign in (-1, 2):
                for p in model.parameters():
                    p += sign * step * p.grad
                moved.append(model(tokens, attention_mask=mask, labels=labels).loss.double())
        slope = float(moved[1] - moved[0]) / (2 * step)
        yield (f"{name}: the gradient agrees with differences of the loss ({slope / squared - 1:.1e})",
               abs(slope / squared - 1) < 2e-2)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(tokens, attention_mask=mask, labels=labels).loss
        mixed.backward()
        loss, mixed = loss.detach(), mixed.detach()
        yield (f"{name}: so does a loss in bf16 by autocast ({float(mixed / loss) - 1:.1e})",
               abs(float(mixed / loss) - 1) < 5e-2
               and all(p.grad.isfinite().all() for p in model.parameters()))


@torch.no_grad()
def check_round_trips(root):
    tokens = random_tokens(4, 1, TOKENS)
    cases = [(*case, {}) for case in few_models().items()]
    change = {**YARN, "max_position_embeddings": 128, "eos_token_id": [7, 8]}
    for name, option, change in [*cases, ("yarn", few_models()["full"], change)]:
        directory = make_model(root, name + "_travels", option, change)
        saved, converted = (f"{directory}_{what}" for what in ("saved", "converted"))
        model = load(directory)
        model.save_pretrained(saved)
        there, back = logits_of(directory, tokens[0], root), logits_of(saved, tokens[0], root)
        yield f"{name}: what transformers saves is the same to wuneng", torch.equal(there, back)
        again = load(saved)
        yield f"{name}: and to transformers", torch.equal(again(tokens).logits, model(tokens).logits)
        wuneng("convert", saved, converted)
        before, after = (json.load(open(os.path.join(d, "config.json"))) for d in (directory, converted))
        kept = {key: after.get(key) for key in before}
        yield f"{name}: and to wuneng convert", kept == before
        half = load(directory, **{DTYPE: torch.bfloat16})
        norm = np.linalg.norm(there)
        error = np.linalg.norm(half(tokens).logits[0].float() - there) / norm
        yield (f"{name}: in bf16 logits are near ({error:.1e})",
               next(half.parameters()).dtype == torch.bfloat16 and error < 0.1)
        begun = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
        yield (f"{name}: a model without weights starts finite",
               all(p.isfinite().all() for p in begun.parameters()) and bool(begun(tokens).logits.std() > 0))


@torch.no_grad()
def check_hooks(root):
    """accelerate copies the arguments of layers that it places on several devices; caches stay the same."""
    try:
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    except ImportError:
        print("skipped: layers on several devices: accelerate is not installed")
        return
    tokens = random_tokens(6, 2, TOKENS)
    for name in ("full", "mixed"):
        model = load(make_model(root, name + "_hooked", few_models()[name]))
        wanted = model(tokens).logits
        for layer in model.model.layers:
            add_hook_to_module(layer, AlignDevicesHook("cpu", io_same_device=True))
        off = difference(cached_logits(model, tokens, [40, TOKENS - 1, TOKENS]), wanted)
        yield f"{name}: layers with accelerate's hooks give the same logits ({off:.1e})", off <= WITHIN


def check_attention(root):
    """A student of attention alone is one of transformers' own models: no code of ours."""
    tokens = random_tokens(5, 1, TOKENS)
    plain = dict(qkv_bias=False, mixer="attention", num_layers=3)
    for name, option in (("Qwen2", dict(mixer="attention", num_layers=3)),
                         ("Qwen3", {**plain, "qk_norm": True}), ("Llama", plain),
                         ("Mistral", {**plain, "window": 9}),
                         ("Qwen3", {**plain, "qk_norm": True, "window": 9})):
        if not hasattr(transformers, name + "ForCausalLM"):
            print(f"skipped: {name}: transformers {transformers.__version__} has none")
            continue
        directory = make_model(root, f"attention_{name}_{option.get('window', 0)}", option)
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        with torch.no_grad():
            off = difference(model(tokens).logits[0], logits_of(directory, tokens[0], root))
        yield (f"attention alone of {option} is a {type(model).__name__}, with the same logits ({off:.1e})",
               type(model).__name__ == name + "ForCausalLM" and off <= WITHIN)


def check_attention_layers(root):
    """The mixer of plain attention against transformers' own models of other families."""
    shape = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16,
                 num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    tokens = random_tokens(7, 2, TOKENS)
    for name, bias, norm in (("Qwen2", True, False), ("Qwen3", False, True), ("Llama", False, False)):
        if not hasattr(transformers, name + "Config"):
            print(f"skipped: {name}: transformers {transformers.__version__} has none")
            continue
        torch.manual_seed(0)
        config = getattr(transformers, name + "Config")(**{**shape, "head_dim": 8} if bias else shape)
        theirs = getattr(transformers, name + "ForCausalLM")(config).eval()
        for n, p in theirs.named_parameters():
            if n.endswith(("bias", "norm.weight")):
                torch.nn.init.normal_(p, 1.0)
        directory = os.path.join(root, "as_" + name)
        theirs.save_pretrained(directory)
        sizes = {key: getattr(config, key, 8) for key in shape}
        with open(os.path.join(directory, "config.json"), "w") as f:
            json.dump({**sizes, "model_type": "mixed", "mixer": "attention", "qkv_bias": bias,
                       "qk_norm": norm, "architectures": ["MixedForCausalLM"],
                       "auto_map": {"AutoConfig": "configuration_wuneng.MixedConfig",
                                    "AutoModelForCausalLM": "modeling_wuneng.MixedForCausalLM"}}, f)
        for path in glob.glob(os.path.join(HERE, "..", "..", "model", "export", "*.py")):
            shutil.copy(path, directory)
        with torch.no_grad():
            off = difference(load(directory)(tokens).logits, theirs(tokens).logits)
        yield f"attention as in {name}: the same logits ({off:.1e})", off <= 1e-5


def check_tokenizer(root):
    source, out = (os.path.join(HERE, "..", "golden", name) for name in ("tokenizer", "qwen2_tied"))
    directory = os.path.join(root, "with_tokenizer")
    wuneng("convert", out, directory, "--preset", "full", "--tokenizer", source)
    text = "The tokenizer's files go with the model: 123, na\u00efve."
    ids = [transformers.AutoTokenizer.from_pretrained(d, trust_remote_code=True)(text).input_ids
           for d in (source, directory)]
    yield "the tokenizer beside the model loads", ids[0] == ids[1] and len(ids[0]) > 5


def check_page(root):
    """The code of docs/transformers.md, as it stands there."""
    with open(os.path.join(HERE, "..", "..", "docs", "transformers.md"), encoding="utf-8") as f:
        blocks = re.findall(r"^```python\n(.*?)^```", f.read(), re.MULTILINE | re.DOTALL)
    raw, golden = os.path.join(root, "page_raw"), os.path.join(HERE, "..", "golden", "tokenizer")
    config = ref.Config(state_heads=4, vocab_size=720)
    write_model(raw, config, ref.init_model(config, np.random.default_rng(0)))
    wuneng("convert", raw, os.path.join(root, "models", "student"), "--tokenizer", golden)
    before, names = os.getcwd(), {}
    os.chdir(root)
    for block in blocks:
        exec(compile(block, "docs/transformers.md", "exec"), names)
    os.chdir(before)
    yield "the page's generation returns a batch", names["out"].shape[0] == 2
    whole = torch.cat([names["prompt"], names["more"]], 1)
    with torch.no_grad():
        wanted = load(os.path.join(root, "models", "student"))(whole).logits[:, names["prompt"].shape[1]:]
    yield "its cache goes on", difference(names["logits"].detach(), wanted) <= WITHIN
    tuned = os.path.join(root, "models", "tuned")
    found = load(tuned)(whole).logits[0].detach()
    yield "its tuned model is one for wuneng", difference(found, logits_of(tuned, whole[0], root)) <= WITHIN
    said = wuneng("generate", tuned, "--prompt", "So it goes", "--tokens", "4", "--temperature", "0")
    yield "with its tokenizer", said.startswith("So it goes") and len(said) > len("So it goes\n")


PARTS = [check_all_logits, check_generation, check_errors, check_training, check_round_trips, check_hooks,
         check_attention, check_attention_layers, check_tokenizer, check_page]


def in_folder(root):
    os.environ["HF_MODULES_CACHE"] = os.path.join(root, "modules")
    for part in PARTS:
        yield from part(root)


def main():
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    torch.set_num_threads(1)
    return run(in_folder)


if __name__ == "__main__":
    sys.exit(main())
