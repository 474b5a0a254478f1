#!/usr/bin/env python3
"""Holds the program's models against the float64 reference: logits over all option combinations, gradients
against finite differences.

usage: check_models.py REFERENCE_PROBE [quick] [cuda] [bf16]

bf16: with bf16 activations, which a GPU alone has; bounds are wider by as much as they round more.
"""
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wuneng_reference as ref  # noqa: E402
from model_files import file_tensor, file_tensors, read_safetensors, write_model  # noqa: E402

TOKENS = 11
# A config.json of that time does not name it: see make_case.
EPS_BEFORE_IT_WAS_AN_OPTION = ref.Config.head_dim * 1e-5


def combinations():
    for i, (cross, state, mid, read, value) in enumerate(itertools.product(
            ("none", "concat", "additive", "gated"), ("concat", "sum", "learned"),
            ("concat", "sum", "learned"), ("linear", "quadratic"),
            (("token",), ("attention",), ("attention", "middle"), ("token", "attention", "middle")))):
        yield dict(cross_head=cross, combine_state=state, combine_middle=mid, state_read=read,
                   state_value=value,
                   state_heads=2 if read == "linear" else 4, token_shift=state != "sum",
                   state_query="grouped" if value == ("attention",) else "full",
                   state_key="shared" if cross == "additive" else "own",
                   state_rank=0 if cross == "gated" else 3, multi_token=value != ("token",),
                   chunk=(1, 3, 4, 256)[i % 4],
                   state_norm="none" if i % 3 == 1 else "rms",
                   state_norm_eps=1e-2 if i % 2 else EPS_BEFORE_IT_WAS_AN_OPTION,
                   tie_word_embeddings=i % 3 != 0)


def attention_cases():
    for heads, kv, tied in ((4, 2, True), (6, 2, False), (3, 3, True), (4, 1, False)):
        yield dict(mixer="attention", num_heads=heads, num_kv_heads=kv, tie_word_embeddings=tied)


def head_counts():
    for heads, kv, states in ((4, 1, 1), (4, 1, 4), (3, 3, 3), (6, 2, 6), (4, 1, 2)):
        yield dict(num_heads=heads, num_kv_heads=kv, state_heads=states)


def presets():
    yield dict(state_heads=4, chunk=4)                                                     # full
    yield dict(state_heads=4, cross_head="none", multi_token=False, state_value=("token",))  # lean
    yield dict(state_heads=2, token_shift=False, state_query="full", state_key="shared",
               state_value=("attention", "middle"),
               combine_state="concat", combine_middle="concat", chunk=4)                     # literal


def mixed_layers():
    yield dict(num_layers=3, state_heads=4, layer_mixers=((1, "attention"),))
    yield dict(num_layers=3, state_heads=4, mixer="attention", layer_mixers=((0, "wuneng"), (2, "wuneng")),
               multi_token=False, state_value=("token",))


def families():
    """Qwen3's norms of queries and keys, and attention without biases as Llama's; sliding windows."""
    for norm in (True, False):
        of = dict(qkv_bias=False, qk_norm=norm)
        yield {**of, "mixer": "attention", "head_dim": 6}
        yield {**of, "mixer": "attention", "num_kv_heads": 1, "window": 4}
        yield {**of, "num_layers": 3, "layer_mixers": ((1, "attention"),), "state_heads": 4, "chunk": 4}
        for o in presets():
            yield {**of, **o, "window": 3}
    yield dict(window=2, state_heads=4, chunk=3)


def rwkv7():
    base = dict(mixer="rwkv7", num_layers=3, hidden_size=32, rwkv_head_dim=8)
    for gate, norm in itertools.product((False, True), (False, True)):
        yield {**base, "rwkv_gate": gate, "rwkv_group_norm": norm, "tie_word_embeddings": gate}
    yield {**base, "hidden_size": 24, "head_dim": 6}  # three heads
    yield {**base, "num_layers": 4, "layer_mixers": ((0, "attention"), (2, "wuneng")), "state_heads": 4}


def initial_states():
    for o in presets():
        yield {**o, "learn_initial_state": True}
    yield dict(mixer="rwkv7", learn_initial_state=True)


def loss(c, model, case):
    return ref.sft_loss(ref.forward(c, model, case["tokens"], case["starts"]), case["labels"])


def write_config_before_state_norm(directory):
    path = os.path.join(directory, "config.json")
    with open(path) as f:
        config = json.load(f)
    config["wuneng"] = {k: v for k, v in config["wuneng"].items() if not k.startswith("state_norm")}
    with open(path, "w") as f:
        json.dump(config, f)


def make_case(directory, option, rng, gradient, recompute="none"):
    c = ref.Config(**{"num_layers": 2, **option})
    model = ref.init_model(c, rng)
    # The file holds float32: the reference must compute with the same numbers.
    as_stored = lambda a: np.float64(np.float32(a))  # noqa: E731
    layers = [{n: as_stored(x) for n, x in p.items()} for p in model["layers"]]
    model = {k: as_stored(v) if k != "layers" else layers for k, v in model.items()}
    tokens = rng.integers(0, c.vocab_size, TOKENS)
    cut = [0, TOKENS] if rng.random() < 0.3 else [0, 6, TOKENS]
    starts = np.repeat(cut[:-1], np.diff(cut))
    labels = rng.integers(0, c.vocab_size, TOKENS)
    labels[5] = -100
    write_model(directory, c, model)
    if c.state_norm_eps == EPS_BEFORE_IT_WAS_AN_OPTION and c.state_norm == "rms":
        write_config_before_state_norm(directory)
    with open(os.path.join(directory, "tokens.json"), "w") as f:
        json.dump({"tokens": tokens.tolist(), "labels": labels.tolist(), "documents": cut,
                   "recompute": recompute}, f)
    return dict(directory=directory, option=option, c=c, model=model, tokens=tokens, starts=starts,
                labels=labels, gradient=gradient)


def finite_difference(case, holder, name, direction, step=1e-6):
    value = holder[name]
    holder[name] = value + step * direction
    up = loss(case["c"], case["model"], case)
    holder[name] = value - step * direction
    down = loss(case["c"], case["model"], case)
    holder[name] = value
    return (up - down) / (2 * step)


# A random model can be so sensitive (a state reading near zero under its RMSNorm, say) that float32 cannot
# meet a fixed bound. What a bound refuses is therefore measured: the reference's own answer when its
# parameters move by half a unit of float32's last place. An error within ROUNDINGS such moves passes, is
# counted, and may not be common.
#
# With bf16 activations that is the measure of most cases: their errors are about as large as one such move. A
# model whose logits a move changes by more than TOO_MUCH is left out: its gradients are noise.
ROUNDINGS, HALF_A_UNIT, TOO_MUCH = 16, 2.0 ** -24, np.inf
LOGITS_WITHIN, LOSS_WITHIN, GRADIENTS_WITHIN, GOLDEN_WITHIN = 1e-5, 1e-5, 1e-4, 1e-5
LARGEST_SHARE_OF_SENSITIVE_CASES = 0.05


def sensitivity(case, answer):
    """How far answer() moves, as a norm, when all parameters of the reference move by half a unit of the last
    place."""
    rng = np.random.default_rng(7)
    model, plain, moves = case["model"], answer(), []
    holders = [model] + model["layers"]
    for _ in range(2):
        kept = [{n: v for n, v in h.items() if n != "layers"} for h in holders]
        for h, k in zip(holders, kept):
            h.update({n: v * (1 + HALF_A_UNIT * rng.standard_normal(v.shape)) for n, v in k.items()})
        moves.append(np.linalg.norm(answer() - plain))
        for h, k in zip(holders, kept):
            h.update(k)
    return max(moves)


def check_gradients(case, out, rng, every_element):
    """Returns failures as text. Each tensor along a random direction, or element by element."""
    failures = []
    c, model = case["c"], case["model"]
    places = [(model, n, {"embed_tokens": "model.embed_tokens.weight", "norm": "model.norm.weight",
                          "lm_head": "lm_head.weight"}[n])
              for n in model if n != "layers"]
    places = [(*place, c) for place in places]
    for i, p in enumerate(model["layers"]):
        of = c.of_layer(i)
        places += [(p, n, f"model.layers.{i}.{file_tensor(of, n, p[n])[0]}", of) for n in p]
    for holder, name, file_name, of in places:
        shape = holder[name].shape
        gradient = out.get("grad." + file_name)

        def ours(direction):  # <gradient, direction>; a tensor that the configuration does not use has none
            if gradient is None:
                return 0.0
            moved = file_tensor(of, name, direction)[1] if holder is not model else direction
            return float(np.sum(np.float64(gradient) * moved))

        if every_element:
            wanted = np.zeros(shape)
            got = np.zeros(shape)
            for at in np.ndindex(shape):
                unit = np.zeros(shape)
                unit[at] = 1
                wanted[at], got[at] = finite_difference(case, holder, name, unit), ours(unit)
            error, scale = np.linalg.norm(got - wanted), np.linalg.norm(wanted)
        else:
            directions = [rng.standard_normal(shape)]
            wanted = np.array([finite_difference(case, holder, name, u) for u in directions])
            got = np.array([ours(u) for u in directions])
            norm = 0.0 if gradient is None else float(np.linalg.norm(gradient))
            error, scale = np.linalg.norm(got - wanted), max(np.linalg.norm(wanted), norm)
        if not error <= GRADIENTS_WITHIN * scale + 1e-8:
            units = list(np.eye(int(np.prod(shape))).reshape(-1, *shape)) if every_element else directions
            slopes = lambda: np.array([finite_difference(case, holder, name, u) for u in units])  # noqa: E731
            if error <= ROUNDINGS * sensitivity(case, slopes):
                case["sensitive"] = True
                continue
            failures.append(f"gradient of {file_name}: relative error {error / (scale + 1e-30):.2e}")
    return failures


def check_golden(run, root):
    """Hugging Face's own numbers (make_model_golden.py). Returns (passed, failed)."""
    passed = failed = 0
    golden = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
    for name in ("qwen2_tied", "qwen2_untied", "qwen2_window", "qwen3", "llama", "mistral"):
        directory = shutil.copytree(os.path.join(golden, name), os.path.join(root, name))
        run([directory])
        wanted = read_safetensors(os.path.join(directory, "expected.safetensors"))
        got = read_safetensors(os.path.join(directory, "out", "model.safetensors"))
        errors = {n: np.linalg.norm(got[n] - w) / np.linalg.norm(w) if n in got else np.inf
                  for n, w in wanted.items()}
        bad = [n for n, e in errors.items() if not e <= GOLDEN_WITHIN]
        for n in bad:
            print(f"golden {name}: {n}: relative error {errors[n]:.2e}")
        failed += bool(bad)
        passed += not bad
    return passed, failed


def main():
    global ROUNDINGS, HALF_A_UNIT, TOO_MUCH, LARGEST_SHARE_OF_SENSITIVE_CASES
    global LOGITS_WITHIN, LOSS_WITHIN, GRADIENTS_WITHIN, GOLDEN_WITHIN
    if "bf16" in sys.argv[2:]:
        ROUNDINGS, HALF_A_UNIT, TOO_MUCH, LARGEST_SHARE_OF_SENSITIVE_CASES = 16, 2.0 ** -9, 0.03, 1
        # The gradient of a key's bias is what is left of a sum that would cancel without RoPE.
        LOGITS_WITHIN, LOSS_WITHIN, GRADIENTS_WITHIN, GOLDEN_WITHIN = 1e-2, 1e-3, 5e-2, 7e-2
    if "cuda" in sys.argv[2:]:
        found = subprocess.run([sys.argv[1], "--device=cuda"], capture_output=True, text=True)
        if "no GPU found" in found.stderr:
            print("skipped:", found.stderr.strip())
            return 77
    command = [sys.argv[1]] + ["--device=cuda"] * ("cuda" in sys.argv[2:])
    command += ["--activations=bf16"] * ("bf16" in sys.argv[2:])

    def run(directories):
        subprocess.run(command + directories, check=True)

    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as root:
        cases = []
        options = [(o, i % 7 == 0, "none") for i, o in enumerate(combinations())]
        options += [(o, True, "none")
                    for o in itertools.chain(attention_cases(), families(), head_counts(), presets(),
                                             mixed_layers(), rwkv7(), initial_states())]
        recomputed = itertools.chain(presets(), mixed_layers(), list(rwkv7())[-1:],
                                     list(initial_states())[-1:])
        parts = itertools.cycle(["layer", "mixer+mlp", "mlp", "mixer"])
        options += [(o, True, part) for o, part in zip(recomputed, parts)]
        options += [({**o, "state_norm": "none"}, True, "none") for o in presets()]
        small = dict(hidden_size=8, intermediate_size=6, num_layers=1, num_heads=2, num_kv_heads=1,
                     head_dim=4, vocab_size=7, decay_rank=2, rate_rank=2)
        options += [({**small, **o, "state_heads": 1}, "every", "none") for o in presets()]
        options.append(({**small, "state_heads": 1, "state_norm": "none"}, "every", "none"))
        if "quick" in sys.argv[2:]:
            options = options[::13]
        for i, (option, gradient, recompute) in enumerate(options):
            cases.append(make_case(os.path.join(root, f"case{i:04}"), option, rng, gradient, recompute))
        for at in range(0, len(cases), 64):
            run([case["directory"] for case in cases[at:at + 64]])
        passed, failed = check_golden(run, root)
        worst, left_out = 0.0, 0
        for case in cases:
            out = read_safetensors(os.path.join(case["directory"], "out", "model.safetensors"))
            wanted = ref.forward(case["c"], case["model"], case["tokens"], case["starts"])
            inputs = case["c"], case["model"], case["tokens"], case["starts"]
            logits = lambda: ref.forward(*inputs)  # noqa: E731
            if TOO_MUCH < np.inf and sensitivity(case, logits) > TOO_MUCH * np.linalg.norm(wanted):
                left_out += 1
                continue
            error = np.linalg.norm(out["logits"] - wanted) / np.linalg.norm(wanted)
            worst = max(worst, error)
            failures = [] if error <= LOGITS_WITHIN else [f"logits: relative error {error:.2e}"]
            if failures and error * np.linalg.norm(wanted) <= ROUNDINGS * sensitivity(case, logits):
                failures, case["sensitive"] = [], True
            off = abs(out["loss"][0] - loss(case["c"], case["model"], case))
            reference_loss = lambda: loss(case["c"], case["model"], case)  # noqa: E731
            near = off <= LOSS_WITHIN * abs(out["loss"][0])
            if not near and not off <= ROUNDINGS * sensitivity(case, reference_loss):
                failures.append("loss differs")
            if case["gradient"]:
                failures += check_gradients(case, out, rng, case["gradient"] == "every")
            for text in failures:
                print(f"{case['option']}: {text}")
            failed += bool(failures)
            passed += not failures
        sensitive = sum("sensitive" in case for case in cases)
        print(f"{sensitive} of {len(cases)} cases are too sensitive for the fixed bounds and pass within "
              f"{ROUNDINGS} roundings")
        failed += sensitive > LARGEST_SHARE_OF_SENSITIVE_CASES * len(cases)
        if left_out:
            print(f"{left_out} of {len(cases)} cases are left out: half a unit of the last place moves their "
                  f"logits by more than {TOO_MUCH}")
            failed += left_out > 0.6 * len(cases)
        print(f"worst relative error of the logits: {worst:.2e}")
        print(f"{passed} passed, {failed} failed")
        return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
