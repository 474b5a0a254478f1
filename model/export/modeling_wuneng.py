"""WuNeng, ARWKV and mixed models in PyTorch, for transformers (docs/transformers.md).

attention_mask says which tokens are there, on any side and between others. A token that is not there has no
position, is not attended to and leaves the states, the token shift and the chunks as they were.
"""
import copy

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_wuneng import MixedConfig, Rwkv7Config, WunengConfig
from .mixers_wuneng import Attention, Rwkv7Mixer, WunengMixer
from .operations_wuneng import ABSENT, Parameters, RMSNorm, rope_cos_sin

# The name of the cache among a model's outputs: transformers has changed it.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class WunengCache(Cache):
    """What the tokens so far leave for the next ones. A call updates it in place. It cannot be cropped, since
    states do not go back."""
    is_compileable = False
    is_linear = [False]

    def __init__(self):  # not the base class's, whose layers are others
        self.columns = 0       # of input_ids that have been seen
        self.lengths = None    # [B] tokens that were there
        self.positions = None  # [B, columns] of the keys; ABSENT
        self.layers = []       # a layer's keys, values [B, G, columns, D], state, boundary [B, N, D, D],
        #                        previous [B, d]: what its mixer has of these

    def get_seq_length(self, layer_idx=0):
        return self.columns

    def reorder_cache(self, beam_idx):
        """For beam search: row i becomes what row beam_idx[i] was."""
        def rows(tensor):
            return tensor.index_select(0, beam_idx.to(tensor.device))
        self.lengths, self.positions = rows(self.lengths), rows(self.positions)
        self.layers = [{name: rows(tensor) for name, tensor in layer.items()} for layer in self.layers]


class Tokens:
    """The T tokens of a call: in each row first those that are there, then the others. Mixers find here their
    positions, cosines and sines, and what earlier layers left (carried)."""

    def __init__(self, config, x, attention_mask, cache):
        """x [B, T, d]. attention_mask [B, columns so far + T], or None: all are there."""
        B, T, _ = x.shape
        if cache.lengths is None:
            cache.lengths = torch.zeros(B, dtype=torch.long, device=x.device)
            cache.positions = cache.lengths.new_zeros(B, 0)
        if len(cache.lengths) != B:
            raise ValueError(f"cache: expected {B} rows, found {len(cache.lengths)}")
        if attention_mask is not None and tuple(attention_mask.shape) != (B, cache.columns + T):
            raise ValueError(f"attention_mask: expected shape {(B, cache.columns + T)}, "
                             f"found {tuple(attention_mask.shape)}")
        self.present = torch.ones(B, T, dtype=torch.bool, device=x.device)
        self.order = self.inverse = None
        if attention_mask is not None and not attention_mask[:, cache.columns:].all():
            present = attention_mask[:, cache.columns:].bool()
            self.order = (~present).int().argsort(dim=1, stable=True)
            self.inverse = self.order.argsort(dim=1)
            self.present = present.gather(1, self.order)
        self.count, self.before = self.present.sum(1), cache.lengths
        position = cache.lengths[:, None] + torch.arange(T, device=x.device)
        self.position = position.masked_fill(~self.present, ABSENT)        # [B, T]
        self.key_position = torch.cat([cache.positions, self.position], 1)  # [B, S], S = columns so far + T
        self.starts = sorted(set(cache.lengths.tolist()))
        self.rope, self.carried = rope_cos_sin(config, self.position), {}

    def on(self, device):
        """The same on a layer's device."""
        if device == self.present.device:
            return self
        other = copy.copy(self)
        for name in ("present", "count", "before", "position", "key_position"):
            setattr(other, name, getattr(self, name).to(device))
        other.rope = tuple(table.to(device) for table in self.rope)
        return other

    def leave(self, cache):
        """What the next call finds."""
        cache.columns += self.present.shape[1]
        cache.lengths, cache.positions = cache.lengths + self.count, self.key_position

    def gather(self, x):
        """Columns of the input to the order of computation. x [B, T, d]."""
        return x if self.order is None else x.gather(1, self.order[..., None].expand_as(x))

    def scatter(self, x):
        return x if self.inverse is None else x.gather(1, self.inverse[..., None].expand_as(x).to(x.device))

    def shifted(self, x, memory):
        """The token before each, zero before the first one (token shift). x [B, T, d]."""
        previous = memory.get("previous", torch.zeros_like(x[:, 0]))
        with_previous = torch.cat([previous[:, None], x], 1)
        last = self.count[:, None, None].expand(-1, 1, x.shape[2])
        memory["previous"] = with_previous.gather(1, last)[:, 0]
        return with_previous[:, :-1]

    def chunk_steps(self, chunk):
        """[(first, last + 1)]: columns within which no row begins a chunk, but at their first."""
        T = self.present.shape[1]
        cuts = {t for start in self.starts for t in range(-start % chunk, T, chunk)}
        cuts = sorted(cuts | {0}) + [T]
        return list(zip(cuts[:-1], cuts[1:]))

    def begins_chunk(self, column, chunk):
        """[B]: does this column begin a chunk of a row?"""
        return self.present[:, column] & ((self.before + column) % chunk == 0)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(d, inner, bias=False)
        self.up_proj = nn.Linear(d, inner, bias=False)
        self.down_proj = nn.Linear(inner, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


MIXERS = {"attention": Attention, "wuneng": WunengMixer, "rwkv7": Rwkv7Mixer}


class WunengLayer(nn.Module):
    """h' = h + a, h'' = h' + SwiGLU(RMSNorm(h')) (Eq. 1, 3)."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MIXERS[config.mixer_of(layer)](config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, h, tokens, cache):
        h = h + self.self_attn(self.input_layernorm(h), tokens.on(h.device), cache.layers[self.layer])
        return h + self.mlp(self.post_attention_layernorm(h))


class WunengModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(WunengLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeddings, attention_mask, cache, all_hidden=False):
        """embeddings [B, T, d]. Returns hidden states: the last ones, after those before each layer."""
        tokens = Tokens(self.config, embeddings, attention_mask, cache)
        if not cache.layers:
            cache.layers = [{} for _ in self.layers]
        h, hidden = tokens.gather(embeddings), []
        for layer in self.layers:
            if all_hidden:
                hidden.append(tokens.scatter(h))
            h = layer(h, tokens, cache)
        tokens.leave(cache)
        return hidden + [tokens.scatter(self.norm(h))]


class WunengForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = WunengConfig
    _auto_class = "AutoModelForCausalLM"  # save_pretrained saves these files too
    base_model_prefix = "model"
    _no_split_modules = ["WunengLayer"]
    _supports_sdpa = True
    _supports_cache_class = True  # asked for by generate of transformers 4.50
    _is_stateful = True  # what a token did to a state stays: no assisted generation
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = WunengModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        """For parameters that the files lack. `wuneng convert --preset` makes a student from a teacher."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (RMSNorm, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            if isinstance(module, nn.GroupNorm):
                nn.init.zeros_(module.bias)
        elif isinstance(module, Parameters):
            module.start()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, cache=None,
                inputs_embeds=None, labels=None, use_cache=None, output_hidden_states=None, return_dict=None,
                logits_to_keep=0):
        """input_ids [B, T], or inputs_embeds [B, T, d]: the tokens after those of the cache. attention_mask
        [B, tokens of the cache + T], 1: the token is there. labels [B, T] or -100: the loss is the mean cross
        entropy of each token's label under the token before. Returns logits [B, T, vocabulary], without
        meaning for tokens that are not there, and the cache for the next call, a WunengCache."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if cache is None:
            cache = WunengCache()
        elif not isinstance(cache, WunengCache):
            raise TypeError(f"cache: expected a WunengCache, found {type(cache).__name__}")
        if inputs_embeds is None:
            inputs_embeds = self.model.embed_tokens(input_ids)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = self.model(inputs_embeds, attention_mask, cache, output_hidden_states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[-1][:, kept])
        loss = None
        if labels is not None:
            labels = labels[:, 1:].flatten().to(logits.device)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels)
        out = CausalLMOutputWithPast(loss=loss, logits=logits,
                                     hidden_states=tuple(hidden) if output_hidden_states else None,
                                     **({CACHE: cache} if use_cache else {}))
        return out.to_tuple() if return_dict is False else out

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # forward makes the cache

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, past_key_values=None, cache=None,
                                      inputs_embeds=None, use_cache=True, logits_to_keep=0, **others):
        """The tokens that the cache has not seen."""
        cache = past_key_values if cache is None else cache
        inputs = {CACHE: cache, "attention_mask": attention_mask, "use_cache": use_cache,
                  "logits_to_keep": logits_to_keep,
                  "output_hidden_states": others.get("output_hidden_states")}
        seen = 0 if cache is None else cache.columns
        if inputs_embeds is not None and seen < inputs_embeds.shape[1]:
            if input_ids.shape[1]:
                inputs_embeds = torch.cat([inputs_embeds, self.model.embed_tokens(input_ids)], 1)
            return {"inputs_embeds": inputs_embeds[:, seen:], **inputs}
        columns = input_ids.shape[1] + (0 if inputs_embeds is None else inputs_embeds.shape[1])
        if attention_mask is not None:
            columns = attention_mask.shape[1]
        if columns <= seen:
            raise ValueError(f"expected the {seen} tokens of the cache and more, found {columns} tokens")
        return {"input_ids": input_ids[:, seen - columns:], **inputs}


class Rwkv7ForCausalLM(WunengForCausalLM):
    config_class = Rwkv7Config


class MixedForCausalLM(WunengForCausalLM):
    config_class = MixedConfig
