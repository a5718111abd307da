"""Tiny transformers models written as GGUF, as llama.cpp's converter does it, by the gguf package."""

from __future__ import annotations

import gguf
import numpy as np

COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
}
OWN = {
    "llama": {"head_dim": 16, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32, "tie_word_embeddings": False},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    "gemma3": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    "phi3": {"tie_word_embeddings": False, "original_max_position_embeddings": 64},
}
CLASSES = {"gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM")} | {
    arch: (f"{word}Config", f"{word}ForCausalLM")
    for arch, word in (
        ("llama", "Llama"),
        ("qwen2", "Qwen2"),
        ("qwen3", "Qwen3"),
        ("gemma2", "Gemma2"),
        ("phi3", "Phi3"),
    )
}
NAMES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
}


def tiny(arch, seed=0, **more):
    """A model of random weights, norms included."""
    import torch
    import transformers

    config, model = (getattr(transformers, name) for name in CLASSES[arch])
    torch.manual_seed(seed)
    made = model(config(**(COMMON | OWN[arch] | more), attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    return made


def interleaved(array, heads):
    """The halves of each head row by row in turn, as llama.cpp stores llama's queries and keys."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def tensors_of(model, arch):
    """GGUF name → float32 array, converted."""
    config = model.config
    names = gguf.get_tensor_name_map(NAMES[arch], config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy().copy()
        if arch == "llama" and ".q_proj." in name:
            array = interleaved(array, config.num_attention_heads)
        if arch == "llama" and ".k_proj." in name:
            array = interleaved(array, config.num_key_value_heads)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            array += 1
        stem, _, kind = name.rpartition(".")
        found[f"{names.get_name(stem)}.{kind}"] = array
    return found


def write_gguf(path, model, arch, kind="F32", *, split=None, tokens=True):
    """A GGUF file; matrices in format ``kind``, vectors in F32."""
    config = model.config
    out = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[NAMES[arch]], split_max_tensors=split or 0)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(theta(config))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch in ("qwen3", "gemma2", "gemma3"):
        out.add_key_length(head)
        out.add_value_length(head)
    else:
        out.add_rope_dimension_count(head)
    if getattr(config, "sliding_window", None):
        out.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        out.add_attn_logit_softcapping(config.attn_logit_softcapping)
        out.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "phi3":
        out.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    if tokens:
        out.add_tokenizer_model("llama")
        out.add_token_list([f"<{i}>".encode() for i in range(config.vocab_size)])
        out.add_bos_token_id(1)
        out.add_eos_token_id(2)
        out.add_pad_token_id(0)
    for name, array in tensors_of(model, arch).items():
        add(out, name, array, kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def theta(config):
    found = getattr(config, "rope_parameters", None) or {}
    found = found.get("full_attention", found)
    return float(found.get("rope_theta", 10000.0))


def add(out, name, array, kind):
    """One tensor; vectors stay F32."""
    number = gguf.GGMLQuantizationType[kind]
    if array.ndim < 2 or kind == "F32":
        out.add_tensor(name, np.ascontiguousarray(array, np.float32))
    elif kind == "F16":
        out.add_tensor(name, array.astype(np.float16))
    else:
        out.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(array), number), raw_dtype=number)
