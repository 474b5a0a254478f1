"""Writes a model of wuneng_reference.py as a Hugging Face directory: config.json and model.safetensors."""
import json
import os
import struct

import numpy as np

ATTENTION_NAMES = {
    "q_proj": "self_attn.q_proj.weight", "q_bias": "self_attn.q_proj.bias",
    "k_proj": "self_attn.k_proj.weight", "k_bias": "self_attn.k_proj.bias",
    "v_proj": "self_attn.v_proj.weight", "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight",
    "o_proj": "self_attn.o_proj.weight", "gate_proj": "mlp.gate_proj.weight", "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight", "input_layernorm": "input_layernorm.weight",
    "post_attention_layernorm": "post_attention_layernorm.weight",
}
PROJECTIONS = ("r_proj", "kappa_proj", "state_k_proj")


def write_safetensors(path, tensors):
    """tensors: name -> array; stored as float32."""
    header, blobs, at = {}, [], 0
    for name in sorted(tensors):
        blob = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(np.shape(tensors[name])),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    length, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    out = {}
    for name, e in header.items():
        assert e["dtype"] == "F32", (name, e)
        begin, end = (8 + length + x for x in e["data_offsets"])
        out[name] = np.frombuffer(raw[begin:end], "<f4").reshape(e["shape"])
    return out


def config_json(c):
    mixed = bool(c.layer_mixers)
    family = ("qwen2" if c.qkv_bias else "qwen3" if c.qk_norm else "mistral" if c.window else "llama")
    out = {"model_type": "mixed" if mixed else family if c.mixer == "attention" else c.mixer,
           "qkv_bias": c.qkv_bias, "qk_norm": c.qk_norm, "hidden_size": c.hidden_size,
           "intermediate_size": c.intermediate_size,
           "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
           "num_key_value_heads": c.num_kv_heads,
           "head_dim": c.head_dim, "vocab_size": c.vocab_size, "rope_theta": c.rope_theta,
           "rms_norm_eps": c.rms_norm_eps,
           "tie_word_embeddings": c.tie_word_embeddings}
    if c.window:
        out |= {"use_sliding_window": True, "sliding_window": c.window, "max_window_layers": 0}
    if mixed:
        out |= {"mixer": c.mixer, "layer_mixers": [f"{i}:{mixer}" for i, mixer in c.layer_mixers]}
    if c.mixer == "wuneng" or "wuneng" in dict(c.layer_mixers).values():
        keys = ("state_heads", "token_shift", "state_query", "state_key", "state_rank", "state_read",
                "state_norm", "state_norm_eps", "state_value", "cross_head",
                "combine_state", "combine_middle", "multi_token", "chunk", "decay_rank", "rate_rank")
        out["wuneng"] = {k: list(v) if isinstance(v := getattr(c, k), tuple) else v for k in keys}
        if c.learn_initial_state:
            out["wuneng"]["learn_initial_state"] = True
    if c.mixer == "rwkv7" or "rwkv7" in dict(c.layer_mixers).values():
        out["rwkv7"] = {k: getattr(c, k) for k in (
            "rwkv_head_dim", "rwkv_gate", "rwkv_group_norm", "learn_initial_state", "decay_rank", "rate_rank",
            "value_rank", "gate_rank")}
    return out


def file_tensor(c, name, value):
    """A tensor of a layer of c's mixer as the file holds it: (name below model.layers.{i}., array)."""
    if c.mixer == "rwkv7" and not name.endswith(("layernorm", "gate_proj", "up_proj", "down_proj")):
        name = name + ".weight" if name.endswith("_proj") else name.replace("ln_x_", "ln_x.")
        return "self_attn.rwkv7." + name, value.reshape(-1) if name == "r_k" else value
    if name in ATTENTION_NAMES:
        return ATTENTION_NAMES[name], value
    base, _, factor = name.partition(".")
    if base in PROJECTIONS:
        return "self_attn.state." + base + ("." + factor if factor else "") + ".weight", value
    if name in ("value_attention", "value_middle"):  # [N, D, P D] -> a D x D block for each query head
        N, D, _ = value.shape
        value = value.reshape(N, D, -1, D).transpose(0, 2, 1, 3).reshape(-1, D, D)
    return "self_attn.state." + name, value


def is_used(c, name, first):
    """Whether models of a layer's options have the tensor, which the reference makes in any case. first: is
    it the first layer with its mixer?"""
    if c.mixer == "rwkv7":
        return not ((name in ("g1", "g2", "mu_g") and not c.rwkv_gate)
                    or (name.startswith("ln_x") and not c.rwkv_group_norm)
                    or (name in ("v0", "v1", "v2") and first))
    if name in ("beta", "gamma"):
        return c.cross_head != "none"
    return name != "lambda" or c.multi_token


def file_tensors(c, model):
    out = {"model.embed_tokens.weight": model["embed_tokens"], "model.norm.weight": model["norm"]}
    if "lm_head" in model:
        out["lm_head.weight"] = model["lm_head"]
    for i, p in enumerate(model["layers"]):
        at = c.of_layer(i)
        first = all(c.of_layer(j).mixer != at.mixer for j in range(i))
        for name, value in p.items():
            if not is_used(at, name, first):
                continue
            file_name, array = file_tensor(at, name, value)
            out[f"model.layers.{i}.{file_name}"] = array
    return out


def write_model(directory, c, model):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(config_json(c), f)
    write_safetensors(os.path.join(directory, "model.safetensors"), file_tensors(c, model))
