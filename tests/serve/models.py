"""Small random models for the tests of servers."""
import json
import os
import shutil
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "reference"))
import wuneng_reference as ref  # noqa: E402
from model_files import config_json, write_model  # noqa: E402

TOKENIZER = os.path.join(HERE, "..", "golden", "tokenizer")
LLAMA3 = os.path.join(HERE, "..", "golden", "tokenizer_schemes", "llama3")
END, END_OF_TURN = 700, 702  # <|endoftext|> and <|im_end|> of that tokenizer


def byte_model(directory, scale=1):
    """Of mixer wuneng; a token is a byte. scale: of the last norm, and so of the logits."""
    config = ref.Config(vocab_size=256, num_layers=2)
    model = ref.init_model(config, np.random.default_rng(1))
    model["norm"] *= scale
    write_model(directory, config, model)
    return directory


def chat_model(directory, positions=512):
    """A plain Qwen2 with the golden tokenizer, as transformers reads it."""
    config = ref.Config(mixer="attention", vocab_size=720, hidden_size=64, intermediate_size=96, num_heads=4,
                        num_kv_heads=2, head_dim=16, num_layers=2, tie_word_embeddings=False)
    model = ref.init_model(config, np.random.default_rng(2))
    model["norm"] *= 1.5
    write_model(directory, config, model)
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump({**config_json(config), "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu",
                   "max_position_embeddings": positions, "eos_token_id": [END, END_OF_TURN]}, f)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        shutil.copy(os.path.join(TOKENIZER, name), directory)
    with open(os.path.join(TOKENIZER, "tokenizer_config.json")) as f:
        settings = json.load(f)
    settings |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
        json.dump(settings, f)
    return directory


def begun_model(directory):
    """The same with a tokenizer like Llama 3's, which puts a token before each text."""
    chat_model(directory)
    shutil.copy(os.path.join(LLAMA3, "tokenizer.json"), directory)
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
        json.dump({"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}, f)
    return directory
