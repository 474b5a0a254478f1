"""What a run leaves behind, read and compared: metrics.jsonl, and checkpoints through index.h5 as an h5py
user would."""
import json
import os
import shutil

import h5py
import numpy as np


def metrics(out):
    with open(os.path.join(out, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def losses(out):
    """[steps]"""
    return np.array([x["loss"] for x in metrics(out) if "loss" in x])


def gradient_norms(out):
    """[steps]"""
    return np.array([x["grad_norm"] for x in metrics(out) if "loss" in x])


def held_out(out):
    """[evaluations, metrics of the objective]

    A preference pair's margin is the difference of its rewards: its rounding is of the rewards' size, however
    small the margin is. It is returned as margin + |reward| of the chosen one.
    """
    def figures(line):
        found = {k: v for k, v in sorted(line.items()) if k.startswith("held_out_")}
        if "held_out_margin" in found:
            found["held_out_margin"] += abs(found["held_out_reward_chosen"])
        return list(found.values())

    return np.array([figures(x) for x in metrics(out) if "held_out_loss" in x])


def tensors(out, step):
    """Name -> array, of the checkpoint of `step`."""
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(os.path.join(out, "checkpoints", f"step_{step:08}", "index.h5"), "r") as f:
        f.visititems(add)
    return found


def first_moments(out, step):
    """Name -> array: with beta1 = 0.9, 0.1 times the sum of 0.9^k times the gradient of k steps ago."""
    return {k: v for k, v in tensors(out, step).items() if k.endswith("/m")}


def parameters(out, step):
    return {k: v for k, v in tensors(out, step).items() if k.startswith("model/")}


def largest_difference(a, b):
    """(relative norm, name) of the tensor that differs most; a tensor that is zero in both counts as
    equal."""
    assert a and a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    worst, where = 0.0, ""
    for k in a:
        scale = np.linalg.norm(a[k])
        error = np.linalg.norm(np.float64(a[k]) - b[k]) / scale if scale > 0 else np.linalg.norm(b[k])
        if not error <= worst:
            worst, where = error, k
    return worst, where


def relative(a, b):
    """The largest |b - a| / |a| of two arrays; infinity where shapes differ."""
    return np.max(np.abs(b - a) / np.abs(a)) if a.shape == b.shape and a.size else np.inf


def differing_tensors(a, b):
    """Names of tensors that are not equal to the bit."""
    return sorted(k for k in a.keys() | b.keys() if k not in a or k not in b or a[k].dtype != b[k].dtype
                  or a[k].tobytes() != b[k].tobytes())


def identical(a, b, step):
    """Whether two runs agree to the bit in their losses and in the checkpoint of `step`."""
    same_losses = losses(a).tolist() == losses(b).tolist()
    return same_losses and not differing_tensors(tensors(a, step), tensors(b, step))


def rewind(source, out, step):
    """A copy of a run as it was right after `step`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    checkpoints = os.path.join(out, "checkpoints")
    for name in os.listdir(checkpoints):
        if name.startswith("step_") and int(name[-8:]) > step:
            shutil.rmtree(os.path.join(checkpoints, name))
    with open(os.path.join(checkpoints, "latest"), "w") as f:
        f.write(f"step_{step:08}\n")
