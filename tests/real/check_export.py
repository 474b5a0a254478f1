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
DTYPE = "torch_dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56) else "dtype"
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


def few_models():
    """name -> option: one of each kind."""
    full, lean, literal = options.presets()
    mixers = ((0, "qwen2"), (2, "wuneng"))
    return {"full": full, "lean": lean, "literal": {**literal, "learn_initial_state": True},
            "arwkv": dict(mixer="rwkv7", learn_initial_state=True),
            "rwkv7": dict(mixer="rwkv7", rwkv_gate=True, rwkv_group_norm=True, tie_word_embeddings=False),
            "mixed": dict(mixer="rwkv7", num_layers=4, layer_mixers=mixers, state_heads=4, chunk=4)}


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
    """A student of attention alone is Qwen2's: no code of ours."""
    directory = make_model(root, "attention", dict(mixer="qwen2", num_layers=3))
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokens = random_tokens(5, 1, TOKENS)
    with torch.no_grad():
        off = difference(model(tokens).logits[0], logits_of(directory, tokens[0], root))
    yield (f"attention alone is a {type(model).__name__}, with the same logits ({off:.1e})",
           type(model).__name__ == "Qwen2ForCausalLM" and off <= WITHIN)


def check_tokenizer(root):
    source, out = (os.path.join(HERE, "..", "golden", name) for name in ("tokenizer", "qwen2_tied"))
    directory = os.path.join(root, "with_tokenizer")
    wuneng("convert", out, directory, "--preset", "full", "--tokenizer", source)
    text = "The tokenizer's files go with the model: 123, na\u00efve."
    ids = [transformers.AutoTokenizer.from_pretrained(d, trust_remote_code=True)(text).input_ids
           for d in (source, directory)]
    yield "the tokenizer beside the model loads", ids[0] == ids[1] and len(ids[0]) > 5


PARTS = [check_all_logits, check_generation, check_errors, check_training, check_round_trips, check_hooks,
         check_attention, check_tokenizer]


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
