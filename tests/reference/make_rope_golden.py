#!/usr/bin/env python3
"""Writes tests/golden/rope.json: inverse frequencies and attention factor of scaled rotary embeddings, as
transformers computes them.

Run by hand, never by the tests: needs torch and transformers (made with 2.15.0 and 5.24.0). A list of
  config               keys of a config.json, over those of tests/unit/config_json_test.cpp
  inverse_frequencies  [head_dim / 2]
  attention_factor
"""
import json
import os

from transformers import Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
CASES = [
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 4096,
                      "beta_fast": 16, "beta_slow": 2}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 32768,
                      "attention_factor": 1.25}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                      "mscale": 1.0, "mscale_all_dim": 0.7}, "rope_theta": 10000.0},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192,
                      "truncate": False}, "head_dim": 64},
    {"rope_scaling": {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 32768,
                      "attention_factor": 1.2}},
    {"rope_scaling": {"type": "linear", "factor": 2.5}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}, "rope_theta": 500000.0},
    {"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}, "rope_theta": 500000.0, "head_dim": 64},
    {"rope_scaling": {"rope_type": "llama3", "factor": 3, "low_freq_factor": 0.5, "high_freq_factor": 9,
                      "original_max_position_embeddings": 64}, "rope_theta": 10000.0},
]


def main():
    out = []
    for case in CASES:
        keys = {"head_dim": 128, **case}
        config = Qwen2Config(hidden_size=3584, num_attention_heads=28, rope_theta=keys.get("rope_theta", 1e6),
                             max_position_embeddings=32768, rope_scaling=dict(keys["rope_scaling"]))
        config.head_dim = keys["head_dim"]
        scaling = keys["rope_scaling"]
        compute = ROPE_INIT_FUNCTIONS[scaling.get("rope_type", scaling.get("type"))]
        frequencies, factor = compute(config, "cpu")
        out.append({"config": keys, "inverse_frequencies": [float(f) for f in frequencies],
                    "attention_factor": float(factor)})
    with open(os.path.join(GOLDEN, "rope.json"), "w") as f:
        json.dump(out, f)
        f.write("\n")


if __name__ == "__main__":
    main()
