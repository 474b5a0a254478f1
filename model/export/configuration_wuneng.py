"""The config.json of models of `wuneng convert`, for transformers (docs/transformers.md)."""
import re
from types import SimpleNamespace

from transformers import PretrainedConfig

ATTENTION = ("attention", "qwen2")  # the mixer of plain attention, and its former name


class WunengConfig(PretrainedConfig):
    """A model all of whose layers have the mixer of its model_type; MixedConfig has several mixers.

    `wuneng` and `rwkv7` hold the options of these mixers (docs/model.md); `wuneng inspect` shows them.
    """
    model_type = "wuneng"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(self, vocab_size=0, hidden_size=0, intermediate_size=0, num_hidden_layers=0,
                 num_attention_heads=1, num_key_value_heads=None, head_dim=None, hidden_act="silu",
                 rms_norm_eps=1e-6, initializer_range=0.02, use_cache=True, rope_theta=10000.0,
                 rope_scaling=None, rope_parameters=None, max_position_embeddings=None, qkv_bias=True,
                 qk_norm=False, use_sliding_window=False, sliding_window=None, max_window_layers=28,
                 layer_types=None, wuneng=None, rwkv7=None, mixer=None, layer_mixers=(),
                 tie_word_embeddings=False, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        if hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act = {hidden_act}: expected silu")
        self.hidden_act, self.rms_norm_eps, self.use_cache = hidden_act, rms_norm_eps, use_cache
        self.initializer_range = initializer_range
        self.qkv_bias, self.qk_norm = qkv_bias, qk_norm
        self.use_sliding_window, self.sliding_window = use_sliding_window, sliding_window
        if use_sliding_window:
            self.layer_types = layer_types or [
                "sliding_attention" if layer >= max_window_layers else "full_attention"
                for layer in range(num_hidden_layers)]
            self.max_window_layers = max_window_layers
        rope = {"rope_theta": rope_theta, **(rope_scaling or {}), **(rope_parameters or {})}
        rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
        if rope["rope_type"] not in ("default", "linear", "yarn", "llama3"):
            raise ValueError(f"rope_type = {rope['rope_type']}: expected default, linear, yarn or llama3")
        self.rope_theta, self.rope_parameters = rope["rope_theta"], rope
        length = rope.get("original_max_position_embeddings", 32768) * rope.get("factor", 1)
        self.max_position_embeddings = max_position_embeddings or int(length)
        if self.model_type == "mixed":
            self.mixer, self.layer_mixers = mixer, list(layer_mixers)
        for name, options in (("wuneng", wuneng), ("rwkv7", rwkv7)):
            if options is not None:
                setattr(self, name, options)
        for layer in range(num_hidden_layers):
            self.mixer_of(layer)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    def window_of(self, layer):
        """The keys that a token attends to at most, its own included; None: all earlier ones."""
        if not self.use_sliding_window or self.layer_types[layer] == "full_attention":
            return None
        return self.sliding_window

    def mixer_of(self, layer):
        """"wuneng", "rwkv7", or "attention". layer_mixers has entries like "0:rwkv7", "5-7:attention"."""
        name = self.model_type
        if name == "mixed":
            name = self.mixer
            for entry in self.layer_mixers:
                first, last, other = re.fullmatch(r"(\d+)(?:-(\d+))?:(\w+)", entry).groups()
                if int(first) <= layer <= int(last or first):
                    name = other
        if name in ATTENTION:
            return "attention"
        if name not in ("wuneng", "rwkv7") or not hasattr(self, name):
            raise ValueError(f"layer {layer} has mixer {name}: expected one of attention, wuneng and rwkv7, "
                             f"and the mixer's options under its name")
        return name

    def options_of(self, mixer):
        return SimpleNamespace(**getattr(self, mixer))


class Rwkv7Config(WunengConfig):
    model_type = "rwkv7"

    def __init__(self, **kwargs):  # transformers 5 would make one of the class's annotations
        super().__init__(**kwargs)


class MixedConfig(WunengConfig):
    model_type = "mixed"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
