#!/usr/bin/env python3
"""Writes tests/golden/NAME/: tiny random models of each family as Hugging Face's own code saves and computes
them.

usage: make_model_golden.py [NAME ...]

Run by hand, never by the tests: needs torch and transformers (qwen2_tied and qwen2_untied made with 1.13 and
4.38.2, the others with 2.15.0 and 5.24.0). A directory holds
  config.json, model.safetensors   by save_pretrained
  tokens.json                      tokens, labels (next token, -100 at a document's end) and documents, as
                                   reference_probe reads them
  expected.safetensors             logits [T, V], loss [1] and grad.NAME, named as reference_probe names them

The model computes in float64 (but where Hugging Face's code casts to float32 itself: norms, rotary tables,
logits). It knows no packed documents, so each runs alone, and the loss is the mean over the labels of all.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers

from model_files import write_safetensors

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
DOCUMENTS = [0, 9, 10, 24]  # one of a single token
SHAPES = {  # several head layouts, so that no size stands in for another
    "qwen2_tied": dict(hidden_size=48, intermediate_size=40, num_attention_heads=6, num_key_value_heads=2,
                       vocab_size=151, rope_theta=1e6, tie_word_embeddings=True),
    "qwen2_untied": dict(hidden_size=40, intermediate_size=44, num_attention_heads=5, num_key_value_heads=1,
                         vocab_size=131, rope_theta=1e4, tie_word_embeddings=False),
    # The window binds in one layer of two.
    "qwen2_window": dict(hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=101, rope_theta=1e4, tie_word_embeddings=True, use_sliding_window=True,
                         sliding_window=5, max_window_layers=1),
    # Heads wider than the hidden size's share.
    "qwen3": dict(hidden_size=36, intermediate_size=40, num_attention_heads=3, num_key_value_heads=1,
                  head_dim=16, vocab_size=97, rope_theta=1e6, tie_word_embeddings=True),
    # Some channels of 8 turn more than high_freq_factor times in 64 tokens, some less than low_freq_factor.
    "llama": dict(hidden_size=32, intermediate_size=44, num_attention_heads=2, num_key_value_heads=2,
                  vocab_size=103, rms_norm_eps=1e-5, tie_word_embeddings=False,
                  rope_parameters=dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0,
                                       high_freq_factor=4.0, original_max_position_embeddings=64)),
    "mistral": dict(hidden_size=48, intermediate_size=40, num_attention_heads=4, num_key_value_heads=1,
                    head_dim=8, vocab_size=89, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    sliding_window=6),
}


def randomize(model, generator):
    """Moves tensors off a fresh model's constants (biases 0, norms 1), which would hide a missing one."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            p.data = 1 + 0.1 * noise
        elif name.endswith("bias"):
            p.data = 0.3 * noise
        elif "embed_tokens" in name:
            p.data = 0.5 * noise
        else:
            p.data = noise / p.shape[1] ** 0.5


def make(name, seed):
    generator = torch.Generator().manual_seed(seed)
    family = name.split("_")[0].capitalize()
    config = getattr(transformers, family + "Config")(num_hidden_layers=2, max_position_embeddings=64,
                                                      **SHAPES[name])
    config._attn_implementation = "eager"
    model = getattr(transformers, family + "ForCausalLM")(config)
    randomize(model, generator)
    directory = os.path.join(GOLDEN, name)
    model.save_pretrained(directory, safe_serialization=True)
    if os.path.exists(path := os.path.join(directory, "generation_config.json")):
        os.remove(path)
    os.chmod(os.path.join(directory, "model.safetensors"), 0o644)

    tokens = torch.randint(0, model.config.vocab_size, (DOCUMENTS[-1],), generator=generator)
    labels = torch.cat([tokens[1:], tokens[:1]])
    labels[[end - 1 for end in DOCUMENTS[1:]]] = -100
    with open(os.path.join(directory, "tokens.json"), "w") as f:
        json.dump({"tokens": tokens.tolist(), "labels": labels.tolist(), "documents": DOCUMENTS}, f)

    model.double()
    torch.set_default_dtype(torch.float64)  # the type in which torch 1.13 makes the attention mask
    pieces = [model(tokens[None, begin:end]).logits[0] for begin, end in zip(DOCUMENTS, DOCUMENTS[1:])]
    logits = torch.cat(pieces).double()
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    loss.backward()
    expected = {"logits": logits.detach().numpy(), "loss": np.array([loss.item()])}
    expected |= {"grad." + n: p.grad.numpy() for n, p in model.named_parameters()}
    write_safetensors(os.path.join(directory, "expected.safetensors"), expected)
    torch.set_default_dtype(torch.float32)
    print(f"{name}: loss {loss.item():.6f}, {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    for i, shape in enumerate(SHAPES):
        if shape in (sys.argv[1:] or SHAPES):
            make(shape, seed=i)
