"""Tiny models of many families, made from transformers' own configs, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VOCAB, LAYERS = 96, 2
TOKENS = [[3, 5, 9, 33, 7, 2, 11, 40]]
IMAGE_TOKEN = 90

GENERAL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
ENCODER = {**GENERAL, "intermediate_size": 48}
DECODER = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 95}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
WHISPER = {
    "vocab_size": VOCAB,
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 12,
    "max_target_positions": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
}
DEEPSEEK = {
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}


def tokens(torch: Any) -> dict[str, Any]:
    """A sentence."""
    return {"input_ids": torch.tensor(TOKENS)}


def both(torch: Any) -> dict[str, Any]:
    """A sentence to encode and one to decode."""
    return {"input_ids": torch.tensor(TOKENS), "decoder_input_ids": torch.tensor(TOKENS)}


def pixels(torch: Any) -> dict[str, Any]:
    """An image."""
    return {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)}


def captioned(torch: Any) -> dict[str, Any]:
    """An image and a sentence."""
    return {**tokens(torch), **pixels(torch)}


def seen(torch: Any) -> dict[str, Any]:
    """A sentence with a place for each of an image's four patches."""
    return {"input_ids": torch.tensor([[3, 5, *[IMAGE_TOKEN] * 4, 7, 2]]), **pixels(torch)}


def wave(torch: Any) -> dict[str, Any]:
    """A sound as a wave."""
    return {"input_values": torch.linspace(-1, 1, 200).sin().reshape(1, 200)}


def heard(torch: Any) -> dict[str, Any]:
    """A sound and a sentence."""
    features = torch.linspace(-1, 1, 8 * 24).reshape(1, 8, 24)
    return {"input_features": features, "decoder_input_ids": torch.tensor(TOKENS)}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made.

    Args:
        name: Of its config class, without ``Config``.
        model: Its model class.
        config: What its config is given.
        inputs: What its forward pass is given, from torch.
        generates: Whether it continues token ids.
        stacks: Stack → the config keys that count its layers; the first of several is the one that is sliced.
        nested: Configs within the config: key → (class, arguments).
    """

    name: str
    model: str
    config: dict[str, Any]
    stacks: dict[str, str]
    inputs: Callable[[Any], dict[str, Any]] = tokens
    generates: bool = False
    nested: dict[str, tuple[str, dict[str, Any]]] | None = None

    def new(self, seed: int, **changes: Any) -> Any:
        """A model with random weights and running statistics."""
        import torch
        import transformers

        torch.manual_seed(seed)
        nested = {k: getattr(transformers, f"{c}Config")(**given) for k, (c, given) in (self.nested or {}).items()}
        config = getattr(transformers, f"{self.name}Config")(**{**self.config, **nested, **changes})
        model = getattr(transformers, self.model)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            for name, buffer in model.named_buffers():
                if name.endswith(("e_score_correction_bias", "running_mean", "running_var")):
                    buffer.add_(torch.rand_like(buffer) * 0.1)
        return model


def causal(name: str, config: dict[str, Any], stack: str = "model.layers", key: str = "num_hidden_layers") -> Family:
    """A language model that continues text."""
    return Family(name, f"{name}ForCausalLM", config, {stack: key}, generates=True)


FAMILIES = {
    "llama": causal("Llama", DECODER),
    "mistral": causal("Mistral", {**DECODER, "sliding_window": 4}),
    "qwen2": causal("Qwen2", {**DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": causal(
        "Qwen3",
        {
            **DECODER,
            "head_dim": 8,
            "layer_types": ["full_attention", "sliding_attention"],
            "use_sliding_window": True,
            "sliding_window": 4,
        },
    ),
    "qwen3-moe": causal(
        "Qwen3Moe",
        {
            **DECODER,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [0],
        },
    ),
    "gemma2": causal("Gemma2", {**DECODER, "head_dim": 8, "sliding_window": 4}),
    "gemma3": Family(
        "Gemma3Text",
        "Gemma3ForCausalLM",
        {**DECODER, "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        {"model.layers": "num_hidden_layers"},
        generates=True,
    ),
    "phi3": causal("Phi3", DECODER),
    "mixtral": causal("Mixtral", {**DECODER, "num_local_experts": 4}),
    "deepseek-v3": causal("DeepseekV3", {**DECODER, **DEEPSEEK}),
    "gpt-oss": causal("GptOss", {**DECODER, "head_dim": 8, "num_local_experts": 4, "sliding_window": 4}),
    "smollm3": causal("SmolLM3", {**DECODER, "no_rope_layers": [1, 0]}),
    "mamba": causal(
        "Mamba",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "state_size": 4},
        "backbone.layers",
    ),
    "gpt2": Family(
        "GPT2",
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32, "eos_token_id": 95},
        {"transformer.h": "n_layer"},
        generates=True,
    ),
    "gpt-neo": Family(
        "GPTNeo",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 32,
            "eos_token_id": 95,
        },
        {"transformer.h": "num_layers"},
        generates=True,
    ),
    "gpt-neox": causal("GPTNeoX", {**ENCODER, "rotary_pct": 0.5, "eos_token_id": 95}, "gpt_neox.layers"),
    "bloom": causal(
        "Bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": LAYERS, "n_head": 4}, "transformer.h", "n_layer"
    ),
    "opt": causal(
        "OPT",
        {**GENERAL, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
        "model.decoder.layers",
    ),
    "bert": Family("Bert", "BertForMaskedLM", ENCODER, {"bert.encoder.layer": "num_hidden_layers"}),
    "roberta": Family("Roberta", "RobertaForMaskedLM", ENCODER, {"roberta.encoder.layer": "num_hidden_layers"}),
    "distilbert": Family(
        "DistilBert",
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCAB, "dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48},
        {"distilbert.transformer.layer": "n_layers"},
    ),
    "t5": Family(
        "T5",
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": LAYERS,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        {"encoder.block": "num_layers", "decoder.block": "num_decoder_layers"},
        both,
    ),
    "bart": Family(
        "Bart",
        "BartForConditionalGeneration",
        BART,
        {"model.encoder.layers": "encoder_layers", "model.decoder.layers": "decoder_layers"},
        both,
    ),
    "whisper": Family(
        "Whisper",
        "WhisperForConditionalGeneration",
        WHISPER,
        {"model.encoder.layers": "encoder_layers", "model.decoder.layers": "decoder_layers"},
        heard,
    ),
    "vit": Family("ViT", "ViTForImageClassification", VISION, {"vit.encoder.layer": "num_hidden_layers"}, pixels),
    "swin": Family(
        "Swin",
        "SwinForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2},
        {"swin.encoder.layers.0.blocks": "depths", "swin.encoder.layers.1.blocks": "depths"},
        pixels,
    ),
    "resnet": Family(
        "ResNet",
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"},
        {"resnet.encoder.stages.0.layers": "depths", "resnet.encoder.stages.1.layers": "depths"},
        pixels,
    ),
    "wav2vec2": Family(
        "Wav2Vec2",
        "Wav2Vec2ForCTC",
        {
            **ENCODER,
            "conv_dim": [8, 8],
            "conv_kernel": [4, 4],
            "conv_stride": [2, 2],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "apply_spec_augment": False,
        },
        {"wav2vec2.encoder.layers": "num_hidden_layers"},
        wave,
    ),
    "cohere2": causal("Cohere2", {**DECODER, "sliding_window": 4, "sliding_window_pattern": 2}),
    "falcon": causal(
        "Falcon",
        {**GENERAL, "new_decoder_architecture": False, "eos_token_id": 95, "bos_token_id": 1},
        "transformer.h",
    ),
    "jamba": Family(
        "Jamba",
        "JambaForCausalLM",
        {
            **DECODER,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 0,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
        },
        {"model.layers": "num_hidden_layers"},
    ),
    "qwen2-vl": Family(
        "Qwen2VL",
        "Qwen2VLForConditionalGeneration",
        {"image_token_id": IMAGE_TOKEN, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93},
        {"model.layers": "text_config.num_hidden_layers", "visual.blocks": "vision_config.depth"},
        generates=True,
        nested={
            "text_config": (
                "Qwen2VLText",
                {**DECODER, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
            ),
            "vision_config": ("Qwen2VLVision", {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32}),
        },
    ),
    "gemma3-vision": Family(
        "Gemma3",
        "Gemma3ForConditionalGeneration",
        {"mm_tokens_per_image": 4, "image_token_index": IMAGE_TOKEN},
        {
            "language_model.model.layers": "text_config.num_hidden_layers",
            "vision_tower.encoder.layers": "vision_config.num_hidden_layers",
        },
        generates=True,
        nested={
            "text_config": ("Gemma3Text", {**DECODER, "head_dim": 8, "sliding_window": 4}),
            "vision_config": ("SiglipVision", VISION),
        },
    ),
    "clip": Family(
        "CLIP",
        "CLIPModel",
        {"projection_dim": 16},
        {
            "text_model.encoder.layers": "text_config.num_hidden_layers",
            "vision_model.encoder.layers": "vision_config.num_hidden_layers",
        },
        captioned,
        nested={
            "text_config": ("CLIPText", {**ENCODER, "eos_token_id": 2, "max_position_embeddings": 32}),
            "vision_config": ("CLIPVision", VISION),
        },
    ),
    "llava": Family(
        "Llava",
        "LlavaForConditionalGeneration",
        {"image_token_index": IMAGE_TOKEN, "vision_feature_layer": -1},
        {
            "language_model.model.layers": "text_config.num_hidden_layers",
            "vision_tower.encoder.layers": "vision_config.num_hidden_layers",
        },
        seen,
        generates=True,
        nested={"text_config": ("Llama", DECODER), "vision_config": ("CLIPVision", VISION)},
    ),
}
