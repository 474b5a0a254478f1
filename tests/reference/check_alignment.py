#!/usr/bin/python3
"""Holds attention alignment (loss.objective = "align") against the float64 reference: the loss, the layers'
losses, and the gradients of all trained parameters against finite differences.

usage: check_alignment.py WUNENG
"""
import os
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "layouts")]
import results  # noqa: E402
import wuneng_reference as ref  # noqa: E402
from model_files import file_tensor, write_model  # noqa: E402
from runs import ONE, Layout, Runs  # noqa: E402

TOKENS, DIRECTIONS, LOSS_WITHIN, GRADIENTS_WITHIN = 11, 1, 1e-6, 1e-4
SETTINGS = {
    "loss.objective": "align", "loss.temperature": None, "loss.ce_share": None, "loss.chunk_tokens": None,
    "data.held_out_every": 0, "data.seq_len": TOKENS, "data.micro_batch": 1, "data.accumulation": 1,
    "optimizer.lr": 0.0, "optimizer.warmup": 0, "optimizer.steps": 1, "run.checkpoint_every": 1,
    "run.eval_every": 0,
}
SHAPE = dict(hidden_size=24, num_heads=6, num_kv_heads=2, state_heads=6, head_dim=8, intermediate_size=34,
             vocab_size=256)
CASES = [  # name, the student, the teacher, settings
    ("full", dict(num_layers=2), dict(num_layers=2), {}),
    ("full, recomputed", dict(num_layers=2), dict(num_layers=2), {"run.recompute": True}),
    ("an attention layer", dict(num_layers=2, layer_mixers=((1, "attention"),)), dict(num_layers=2), {}),
    ("more layers than the teacher", dict(num_layers=3, multi_token=False, state_value=("token",)),
     dict(num_layers=2), {}),
    ("a layer map", dict(num_layers=2), dict(num_layers=5), {"teacher.layer_map": [1, 3]}),
    ("a wider teacher", dict(num_layers=2), dict(num_layers=3, hidden_size=32), {}),
    ("a wider teacher that streams, tp 2", dict(num_layers=2), dict(num_layers=3, hidden_size=32), {}),
]


def as_stored(model):
    """The reference must compute with the file's float32 numbers."""
    narrow = lambda a: np.float64(np.float32(a))  # noqa: E731
    return {k: narrow(v) if k != "layers" else [{n: narrow(x) for n, x in p.items()} for p in v]
            for k, v in model.items()}


def spread(student, teacher):
    return [max(0, int(np.floor((i + 1) * teacher / student + 0.5)) - 1) for i in range(student)]


class Reference:
    def __init__(self, c, model, taps, layer_map, projections):
        self.c, self.model, self.taps, self.map, self.projections = c, model, taps, layer_map, projections

    def distances(self):
        """Of each layer."""
        out = []
        starts = np.zeros(TOKENS, dtype=int)
        for i, p in enumerate(self.model["layers"]):
            x, wanted = self.taps[self.map[i]]
            if self.projections:
                x = x @ self.projections[i]["input"].T
            mixer = ref.attention_mixer if self.c.of_layer(i).mixer == "attention" else ref.wuneng_mixer
            a = mixer(self.c, p, x, starts)
            if self.projections:
                a = a @ self.projections[i]["output"].T
            out.append(ref.alignment_loss([a], [wanted]))
        return np.array(out)

    def slope(self, holder, name, direction, step=1e-6):
        value = holder[name]
        ends = []
        for sign in (1, -1):
            holder[name] = value + sign * step * direction
            ends.append(self.distances().mean())
        holder[name] = value
        return (ends[0] - ends[1]) / (2 * step)


def check(runs, rng, name, student, teacher, settings):
    failures = []
    c = ref.Config(**{**SHAPE, **student})
    t = ref.Config(**{**SHAPE, **teacher, "mixer": "attention"})
    model, teacher_model = (as_stored(ref.init_model(x, rng)) for x in (c, t))
    write_model(runs.teacher, t, teacher_model)
    write_model(runs.out("student"), c, model)
    with open(runs.text, "rb") as f:
        tokens = np.frombuffer(f.read(), np.uint8)[:TOKENS].astype(int)
    taps = []
    ref.forward(t, teacher_model, tokens, taps=taps)
    layout = (Layout(tp=2), ONE) if "streams" in name else (ONE, None)
    shape_keys = {k: None for k in runs.recipe if k.startswith("student.")}
    out = runs.run(name.replace(" ", "_"), *layout,
                   {**shape_keys, "student.init_from": runs.out("student"), **SETTINGS, **settings})
    tensors, metrics = results.tensors(out, 1), results.metrics(out)[0]
    projections = [{side: np.float64(tensors[f"model/model.layers.{i}.alignment.{side}_proj.weight"])
                    for side in ("input", "output")} for i in range(c.num_layers)
                   ] if t.hidden_size != c.hidden_size else []
    layer_map = settings.get("teacher.layer_map", spread(c.num_layers, t.num_layers))
    reference = Reference(c, model, taps, layer_map, projections)

    wanted = reference.distances()
    found = np.array([metrics[f"layer.{i}"] for i in range(c.num_layers)])
    error = max(np.max(np.abs(found - wanted) / wanted), abs(metrics["loss"] - wanted.mean()) / wanted.mean())
    if not error <= LOSS_WITHIN:
        failures.append(f"losses of layers: expected {wanted}, found {found}, {metrics['loss']}")

    places = [(projections[i], side, f"model.layers.{i}.alignment.{side}_proj.weight", None)
              for i in range(len(projections)) for side in ("input", "output")]
    for i, p in enumerate(model["layers"]):
        at = c.of_layer(i)
        places += [(p, n, f"model.layers.{i}.{file_tensor(at, n, p[n])[0]}", (at, n)) for n in p]
    compared = 0
    for holder, key, file_name, layer_tensor in places:
        moment = tensors.get(f"optimizer/{file_name}/m")
        if moment is None:
            continue
        directions = [rng.standard_normal(holder[key].shape) for _ in range(DIRECTIONS)]
        wanted = np.array([reference.slope(holder, key, u) for u in directions])
        gradient = np.float64(moment) / 0.1  # beta1 = 0.9
        moved = [file_tensor(*layer_tensor, u)[1] if layer_tensor else u for u in directions]
        found = np.array([np.sum(gradient * u) for u in moved])
        error = np.linalg.norm(found - wanted)
        if not error <= GRADIENTS_WITHIN * max(np.linalg.norm(wanted), np.linalg.norm(gradient)) + 1e-8:
            failures.append(f"gradient of {file_name}: expected {wanted}, found {found}")
        compared += 1
    moments = [k for k in tensors if k.endswith("/m")]
    if compared != len(moments):
        failures.append(f"{len(moments)} tensors are trained, {compared} compared")
    if any("self_attn" not in k and "alignment" not in k for k in moments):
        failures.append(f"expected mixers and projections alone to be trained, found {moments}")
    return failures, f"loss {metrics['loss']:.4f}, {compared} gradients"


def main():
    failed = 0
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as root:
        runs = Runs(os.path.abspath(sys.argv[1]), root, steps=1)
        with open(runs.text, "r+b") as f:
            f.truncate(TOKENS + 1)
        for name, student, teacher, settings in CASES:
            failures, note = check(runs, rng, name, student, teacher, settings)
            print("FAILED" if failures else "ok    ", name, note, *failures, sep="  ")
            failed += bool(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
