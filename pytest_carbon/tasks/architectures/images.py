"""The study's image models as data, from their published configurations.

Label counts are those of the training data (ImageNet 1,000, with a background 1,001; ImageNet-22k 21,841; COCO 91).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_carbon.tasks.architectures.record import Architecture, encoder_decoder, transformer

Config = Mapping[str, Any]

_VIT_LARGE = transformer(1024, 24, 16, 4096)
_SMALL_VISION = {**transformer(32, 2, 2, 64), "image_size": 32}
_SMALL_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64]}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _edge(shortest: int) -> dict[str, int]:
    return {"shortest_edge": shortest}


# --- image classification ------------------------------------------------------------------------


def _classifier(name: str, config: Config, small: Config, processor: Config, small_processor: Config) -> Architecture:
    config, small = {"num_labels": 1000, **config}, {**small, "num_labels": 10}
    return Architecture(f"transformers:{name}ForImageClassification", config, small, processor, small_processor)


def _vit(side: int) -> Architecture:
    processor = {"class": "transformers:ViTImageProcessorPil", "size": _square(side)}
    return _classifier("ViT", {"image_size": side}, _SMALL_VISION, processor, {"size": _square(32)})


def _by_shortest_edge(name: str, config: Config, small: Config, side: int) -> Architecture:
    """Resize the shortest edge to side / 0.875, then take the middle square."""
    processor = {
        "class": "transformers:ConvNextImageProcessorPil",
        "size": _edge(side),
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return _classifier(name, config, {**small, **_SMALL_STAGES}, processor, {"size": _edge(32)})


def _convnextv2(side: int) -> Architecture:
    config = {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768], "image_size": side}
    return _by_shortest_edge("ConvNextV2", config, {"image_size": 32}, side)


def _resnet(layer_type: str, depths: list[int], hidden_sizes: list[int]) -> Architecture:
    config = {"layer_type": layer_type, "depths": depths, "hidden_sizes": hidden_sizes}
    return _by_shortest_edge("ResNet", config, {"embedding_size": 8}, 224)


_CLASSIFIERS = {
    "google/vit-base-patch16-224": _vit(224),
    "google/vit-base-patch16-384": _vit(384),
    "facebook/convnextv2-tiny-1k-224": _convnextv2(224),
    "facebook/convnextv2-tiny-22k-384": _convnextv2(384),
    "microsoft/resnet-18": _resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    "microsoft/resnet-50": _resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    "microsoft/beit-base-patch16-224-pt22k-ft22k": _classifier(
        "Beit",
        {"image_size": 224, "use_relative_position_bias": True, "num_labels": 21841},
        _SMALL_VISION,
        {"class": "transformers:BeitImageProcessorPil", "size": _square(224), "do_center_crop": False},
        {"size": _square(32)},
    ),
    "google/mobilenet_v1_0.75_192": _classifier(
        "MobileNetV1",
        {"depth_multiplier": 0.75, "image_size": 192, "num_labels": 1001},
        {"depth_multiplier": 0.125, "image_size": 32},
        {"class": "transformers:MobileNetV1ImageProcessorPil", "size": _edge(224), "crop_size": _square(192)},
        {"size": _edge(32), "crop_size": _square(32)},
    ),
}

# --- object detection ----------------------------------------------------------------------------

_SMALL_BACKBONE = {"embedding_size": 8, **_SMALL_STAGES}
_SMALL_DETECTOR = {**encoder_decoder(32, 2, 2, 64), "num_queries": 10, "backbone_config": _SMALL_BACKBONE}
# Its group norms have 32 groups of more than one channel.
_SMALL_DEFORMABLE = {**_SMALL_DETECTOR, "d_model": 64, "encoder_n_points": 2, "decoder_n_points": 2}


def _detector(
    name: str, config: Config, small: Config, *, shortest: int = 800, no_checkpoint: str | None = None
) -> Architecture:
    """Resize the shortest edge to 800, the longest to 1,333 at most."""
    size = {"shortest_edge": shortest, "longest_edge": 1333}
    return Architecture(
        f"transformers:{name}ForObjectDetection",
        {"num_labels": 91, **config},
        {**small, "num_labels": 5},
        processor={"class": f"transformers:{name}ImageProcessorPil", "size": size},
        small_processor={"size": {"shortest_edge": 48, "longest_edge": 64}},
        no_checkpoint=no_checkpoint,
    )


def _resnet_backbone(depths: list[int], *stages: str) -> dict[str, Any]:
    """Write the ResNet out: by default, DETR needs the package timm."""
    backbone = {"model_type": "resnet", "depths": depths, "out_features": list(stages)}
    return {"use_timm_backbone": False, "backbone_config": backbone}


def _detr(depths: list[int], *, heads: int = 8, activation: str = "relu", labels: int = 91) -> Architecture:
    config = {
        **_resnet_backbone(depths, "stage4"),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "activation_function": activation,
        "num_labels": labels,
    }
    return _detector("Detr", config, _SMALL_DETECTOR)


def _yolos(size: Config, image_size: list[int], *, middle: bool, shortest: int = 800) -> Architecture:
    config = {**size, "image_size": image_size, "use_mid_position_embeddings": middle}
    small = {**_SMALL_VISION, "image_size": [48, 64], "num_detection_tokens": 10}
    return _detector("Yolos", config, small, shortest=shortest)


_RESNET_50, _RESNET_101 = [3, 4, 6, 3], [3, 4, 23, 3]

_DETECTORS = {
    "facebook/detr-resnet-50": _detr(_RESNET_50),
    "facebook/detr-resnet-101": _detr(_RESNET_101),
    # white blood cells in stained tissue: one class
    "polejowska/detr-r50-cd45rb-1ah-6l": _detr(_RESNET_50, heads=1, labels=1),
    "polejowska/detr-r50-cd45rb-8ah-6l-gelu-corrected": _detr(_RESNET_50, activation="gelu", labels=1),
    "SenseTime/deformable-detr": _detector(
        "DeformableDetr", _resnet_backbone(_RESNET_50, "stage2", "stage3", "stage4"), _SMALL_DEFORMABLE
    ),
    "jozhang97/deta-swin-large": _detector(
        "DeformableDetr",
        {
            "use_timm_backbone": False,
            "backbone_config": {
                "model_type": "swin",
                "image_size": 384,
                "embed_dim": 192,
                "depths": [2, 2, 18, 2],
                "num_heads": [6, 12, 24, 48],
                "window_size": 12,
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "num_feature_levels": 5,
            "two_stage": True,
            "with_box_refine": True,
            "two_stage_num_proposals": 900,
            "num_queries": 900,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
        },
        {
            **_SMALL_DEFORMABLE,
            "two_stage_num_proposals": 10,
            "backbone_config": {
                "image_size": 64,
                "embed_dim": 8,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 1, 2, 2],
                "window_size": 4,
            },
        },
        no_checkpoint=(
            "transformers 5 has no DETA any more: it is built as the Deformable DETR it descends from, two-stage and "
            "with the same Swin-L backbone, five feature levels and 900 queries"
        ),
    ),
    "hustvl/yolos-small": _yolos(transformer(384, 12, 6, 1536), [512, 864], middle=True),
    "hustvl/yolos-tiny": _yolos(transformer(192, 12, 3, 768), [800, 1333], middle=False, shortest=512),
}

# --- image captioning ----------------------------------------------------------------------------

_SMALL_TEXT = {**transformer(32, 2, 2, 64), "vocab_size": 2000, "max_position_embeddings": 64}


def _captioner(name: str, config: Config, small: Config, processor: Config, small_processor: Config) -> Architecture:
    """Write 20 new tokens, ``generate()``'s default at the time of the study."""
    call, small_call = {"max_new_tokens": 20}, {"max_new_tokens": 4}
    return Architecture(f"transformers:{name}", config, small, processor, small_processor, call, small_call)


def _blip(vision: Config) -> Architecture:
    return _captioner(
        "BlipForConditionalGeneration",
        {
            "text_config": {"num_attention_heads": 12, "initializer_range": 0.02},
            "vision_config": {"image_size": 384, "initializer_range": 0.02, **vision},
        },
        {
            "text_config": {**_SMALL_TEXT, "bos_token_id": 1998},
            "vision_config": {**_SMALL_VISION, "patch_size": 16},
            "projection_dim": 32,
        },
        {"class": "transformers:BlipImageProcessorPil", "size": _square(384)},
        {"size": _square(32)},
    )


def _blip2(language_model: Config, small_language_model: Config, image_token: int) -> Architecture:
    """Make EVA-CLIP-g, a Q-Former of 32 queries and a language model."""
    return _captioner(
        "Blip2ForConditionalGeneration",
        {
            "text_config": language_model,
            "vision_config": {"initializer_range": 0.02},
            "qformer_config": {},
            "num_query_tokens": 32,
            "image_token_index": image_token,
        },
        {
            "text_config": small_language_model,
            "vision_config": {**_SMALL_VISION, "image_size": 28},
            "qformer_config": _SMALL_TEXT,
            "num_query_tokens": 4,
            "image_token_index": 1990,
        },
        {"class": "transformers:BlipImageProcessorPil", "size": _square(224)},
        {"size": _square(28)},
    )


def _git(vision: Config) -> Architecture:
    return _captioner(
        "GitForCausalLM",
        {"vision_config": vision},
        {**_SMALL_TEXT, "vision_config": {**_SMALL_VISION, "patch_size": 16}},
        {"class": "transformers:CLIPImageProcessorPil"},
        {"size": _edge(32), "crop_size": _square(32)},
    )


_ENDS = ("bos_token_id", "eos_token_id")
_SPECIAL = (*_ENDS, "decoder_start_token_id", "pad_token_id")
_VIT_GPT2 = _captioner(
    "VisionEncoderDecoderModel",
    {
        "encoder": {"model_type": "vit"},
        "decoder": {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True},
        **dict.fromkeys(_SPECIAL, 50256),
    },
    {
        "encoder": _SMALL_VISION,
        "decoder": {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "vocab_size": 2000,
            **dict.fromkeys(_ENDS, 1999),
        },
        **dict.fromkeys(_SPECIAL, 1999),
    },
    {"class": "transformers:ViTImageProcessorPil"},
    {"size": _square(32)},
)


def _t5(width: int, head: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    depth = {"num_layers": layers, "num_decoder_layers": layers, "num_heads": heads}
    return {"d_model": width, "d_kv": head, "d_ff": inner, **depth}


def _opt(width: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    depth = {"num_hidden_layers": layers, "num_attention_heads": heads}
    return {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": inner, **depth}


_FLAN_T5_XL = {
    "model_type": "t5",
    **_t5(2048, 64, 5120, 24, 32),
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 32128,
    "bos_token_id": 1,
    "decoder_start_token_id": 0,
}
_OPT_2_7B = {"model_type": "opt", **_opt(2560, 10240, 32, 32), "vocab_size": 50272, "eos_token_id": 50118}
_SMALL_OPT = {**_opt(32, 64, 2, 2), "vocab_size": 2000, "max_position_embeddings": 64, "eos_token_id": 1999}

_CAPTIONERS = {
    "Salesforce/blip-image-captioning-base": _blip({}),
    "Salesforce/blip-image-captioning-large": _blip(_VIT_LARGE),
    "Salesforce/blip2-flan-t5-xl": _blip2(_FLAN_T5_XL, {**_t5(32, 16, 64, 2, 2), "vocab_size": 2000}, 32100),
    "Salesforce/blip2-opt-2.7b": _blip2(_OPT_2_7B, _SMALL_OPT, 50265),
    "microsoft/git-base": _git({}),
    "microsoft/git-large-coco": _git({**_VIT_LARGE, "patch_size": 14}),
    "nlpconnect/vit-gpt2-image-captioning": _VIT_GPT2,
    "ydshieh/vit-gpt2-coco-en": _VIT_GPT2,
}

IMAGES: Mapping[str, Architecture] = {**_CLASSIFIERS, **_DETECTORS, **_CAPTIONERS}
