"""The study's image models (classification, detection, captioning) as data, from their published configurations.

What a vision-encoder-decoder, a BLIP or a GIT counts besides its base class is in ``counted_as``; label counts are
those of the data a model was trained on (ImageNet 1,000, with a background 1,001; ImageNet-22k 21,841; COCO 91).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_carbon.tasks.architectures.record import Architecture

_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_HALF = [0.5, 0.5, 0.5]


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


# --- image classification ------------------------------------------------------------------------

_SMALL_TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
}


def _vit(side: int) -> Architecture:
    return Architecture(
        "transformers:ViTForImageClassification",
        {"image_size": side, "num_labels": 1000},
        small={**_SMALL_TRANSFORMER, "num_labels": 10},
        processor={
            "class": "transformers:ViTImageProcessorPil",
            "size": _square(side),
            "image_mean": _HALF,
            "image_std": _HALF,
        },
        small_processor={"size": _square(32)},
    )


def _resized_by_shortest_edge(side: int) -> dict[str, Any]:
    """As torchvision evaluates on ImageNet: the shortest edge to side / 0.875, then the middle square."""
    return {
        "class": "transformers:ConvNextImageProcessorPil",
        "size": {"shortest_edge": side},
        "crop_pct": 0.875,
        "image_mean": _IMAGENET_MEAN,
        "image_std": _IMAGENET_STD,
    }


def _convnextv2(side: int) -> Architecture:
    return Architecture(
        "transformers:ConvNextV2ForImageClassification",
        {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768], "image_size": side, "num_labels": 1000},
        small={"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "image_size": 32, "num_labels": 10},
        processor=_resized_by_shortest_edge(side),
        small_processor={"size": {"shortest_edge": 32}},
    )


def _resnet(layer_type: str, depths: list[int], hidden_sizes: list[int]) -> Architecture:
    return Architecture(
        "transformers:ResNetForImageClassification",
        {"layer_type": layer_type, "depths": depths, "hidden_sizes": hidden_sizes, "num_labels": 1000},
        small={"embedding_size": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "num_labels": 10},
        processor=_resized_by_shortest_edge(224),
        small_processor={"size": {"shortest_edge": 32}},
    )


_CLASSIFIERS = {
    "google/vit-base-patch16-224": _vit(224),
    "google/vit-base-patch16-384": _vit(384),
    "facebook/convnextv2-tiny-1k-224": _convnextv2(224),
    "facebook/convnextv2-tiny-22k-384": _convnextv2(384),
    "microsoft/resnet-18": _resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    "microsoft/resnet-50": _resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    "microsoft/beit-base-patch16-224-pt22k-ft22k": Architecture(
        "transformers:BeitForImageClassification",
        {"image_size": 224, "use_relative_position_bias": True, "num_labels": 21841},
        small={**_SMALL_TRANSFORMER, "num_labels": 10},
        processor={
            "class": "transformers:BeitImageProcessorPil",
            "size": _square(224),
            "do_center_crop": False,
            "image_mean": _HALF,
            "image_std": _HALF,
        },
        small_processor={"size": _square(32)},
    ),
    "google/mobilenet_v1_0.75_192": Architecture(
        "transformers:MobileNetV1ForImageClassification",
        {"depth_multiplier": 0.75, "image_size": 192, "num_labels": 1001},
        small={"depth_multiplier": 0.125, "image_size": 32, "num_labels": 10},
        processor={
            "class": "transformers:MobileNetV1ImageProcessorPil",
            "size": {"shortest_edge": 224},
            "crop_size": _square(192),
            "image_mean": _HALF,
            "image_std": _HALF,
        },
        small_processor={"size": {"shortest_edge": 32}, "crop_size": _square(32)},
    ),
}

# --- object detection ----------------------------------------------------------------------------


def _coco_resized(class_name: str, shortest: int = 800) -> dict[str, Any]:
    """Shortest edge to 800, longest to 1,333 at most: 640×480 becomes 1,066×800."""
    return {"class": class_name, "size": {"shortest_edge": shortest, "longest_edge": 1333}}


_SMALL_EDGES = {"size": {"shortest_edge": 48, "longest_edge": 64}}
_SMALL_BACKBONE = {"embedding_size": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64]}
_SMALL_DETECTOR = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "num_labels": 5,
}
_RESNET_DEPTHS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}


def _detr(depth: int, *, heads: int = 8, activation: str = "relu", labels: int = 91) -> Architecture:
    """DETR with its ResNet written out: by default the class would ask for the package timm."""
    return Architecture(
        "transformers:DetrForObjectDetection",
        {
            "use_timm_backbone": False,
            "backbone_config": {
                "model_type": "resnet",
                "depths": _RESNET_DEPTHS[depth],
                "out_features": ["stage4"],
            },
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "activation_function": activation,
            "num_labels": labels,
        },
        small={**_SMALL_DETECTOR, "backbone_config": _SMALL_BACKBONE},
        processor=_coco_resized("transformers:DetrImageProcessorPil"),
        small_processor=_SMALL_EDGES,
    )


# Its group norms have 32 groups of more than one channel.
_DEFORMABLE_SMALL = {**_SMALL_DETECTOR, "d_model": 64, "encoder_n_points": 2, "decoder_n_points": 2}

_DETECTORS = {
    "facebook/detr-resnet-50": _detr(50),
    "facebook/detr-resnet-101": _detr(101),
    # white blood cells in stained tissue: one class
    "polejowska/detr-r50-cd45rb-1ah-6l": _detr(50, heads=1, labels=1),
    "polejowska/detr-r50-cd45rb-8ah-6l-gelu-corrected": _detr(50, activation="gelu", labels=1),
    "SenseTime/deformable-detr": Architecture(
        "transformers:DeformableDetrForObjectDetection",
        {
            "use_timm_backbone": False,
            "backbone_config": {
                "model_type": "resnet",
                "depths": _RESNET_DEPTHS[50],
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "num_labels": 91,
        },
        small={**_DEFORMABLE_SMALL, "backbone_config": _SMALL_BACKBONE},
        processor=_coco_resized("transformers:DeformableDetrImageProcessorPil"),
        small_processor=_SMALL_EDGES,
    ),
    "jozhang97/deta-swin-large": Architecture(
        "transformers:DeformableDetrForObjectDetection",
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
            "num_labels": 91,
        },
        small={
            **_DEFORMABLE_SMALL,
            "two_stage_num_proposals": 10,
            "backbone_config": {
                "image_size": 64,
                "embed_dim": 8,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 1, 2, 2],
                "window_size": 4,
            },
        },
        processor=_coco_resized("transformers:DeformableDetrImageProcessorPil"),
        small_processor=_SMALL_EDGES,
        no_checkpoint=(
            "transformers 5 has no DETA any more: it is built as the Deformable DETR it descends from, two-stage and "
            "with the same Swin-L backbone, five feature levels and 900 queries"
        ),
    ),
    "hustvl/yolos-small": Architecture(
        "transformers:YolosForObjectDetection",
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "image_size": [512, 864],
            "use_mid_position_embeddings": True,
            "num_labels": 91,
        },
        small={**_SMALL_TRANSFORMER, "image_size": [48, 64], "num_detection_tokens": 10, "num_labels": 5},
        processor=_coco_resized("transformers:YolosImageProcessorPil"),
        small_processor=_SMALL_EDGES,
    ),
    "hustvl/yolos-tiny": Architecture(
        "transformers:YolosForObjectDetection",
        {
            "hidden_size": 192,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "image_size": [800, 1333],
            "use_mid_position_embeddings": False,
            "num_labels": 91,
        },
        small={**_SMALL_TRANSFORMER, "image_size": [48, 64], "num_detection_tokens": 10, "num_labels": 5},
        processor=_coco_resized("transformers:YolosImageProcessorPil", shortest=512),
        small_processor=_SMALL_EDGES,
    ),
}

# --- image captioning ----------------------------------------------------------------------------

_CAPTION = {"max_new_tokens": 20}
"""What ``generate()`` did without being asked for a length when the study was made."""
_SMALL_CAPTION = {"max_new_tokens": 4}
_SMALL_VISION = {**_SMALL_TRANSFORMER, "patch_size": 16}
_SMALL_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 2000,
    "max_position_embeddings": 64,
}
_VIT_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def _blip(vision: Mapping[str, Any]) -> Architecture:
    return Architecture(
        "transformers:BlipForConditionalGeneration",
        {
            "text_config": {"num_attention_heads": 12, "initializer_range": 0.02},
            "vision_config": {"image_size": 384, "initializer_range": 0.02, **vision},
        },
        "wordpiece",
        small={
            "text_config": {**_SMALL_TEXT, "bos_token_id": 1998},
            "vision_config": _SMALL_VISION,
            "projection_dim": 32,
        },
        processor={"class": "transformers:BlipImageProcessorPil", "size": _square(384)},
        small_processor={"size": _square(32)},
        call=_CAPTION,
        small_call=_SMALL_CAPTION,
    )


def _blip2(
    language_model: Mapping[str, Any],
    small_language_model: Mapping[str, Any],
    *,
    image_token: int,
    tokenizer: str,
    exception: str | None = None,
) -> Architecture:
    """EVA-CLIP-g, a Q-Former of 32 queries and a language model; each image stands where its 32 image tokens stand."""
    return Architecture(
        "transformers:Blip2ForConditionalGeneration",
        {
            "text_config": dict(language_model),
            "vision_config": {"initializer_range": 0.02},
            "qformer_config": {},
            "num_query_tokens": 32,
            "image_token_index": image_token,
        },
        tokenizer,
        small={
            "text_config": dict(small_language_model),
            "vision_config": {**_SMALL_TRANSFORMER, "image_size": 28},
            "qformer_config": _SMALL_TEXT,
            "num_query_tokens": 4,
            "image_token_index": 1990,
        },
        processor={"class": "transformers:BlipImageProcessorPil", "size": _square(224)},
        small_processor={"size": _square(28)},
        call=_CAPTION,
        small_call=_SMALL_CAPTION,
        exception=exception,
    )


def _git(vision: Mapping[str, Any]) -> Architecture:
    return Architecture(
        "transformers:GitForCausalLM",
        {"vision_config": dict(vision)},
        "wordpiece",
        small={**_SMALL_TEXT, "vision_config": _SMALL_VISION},
        processor={
            "class": "transformers:CLIPImageProcessorPil",
            "size": {"shortest_edge": 224},
            "crop_size": _square(224),
        },
        small_processor={"size": {"shortest_edge": 32}, "crop_size": _square(32)},
        call=_CAPTION,
        small_call=_SMALL_CAPTION,
    )


_VIT_GPT2 = Architecture(
    "transformers:VisionEncoderDecoderModel",
    {
        "encoder": {"model_type": "vit"},
        "decoder": {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True},
        "decoder_start_token_id": 50256,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": 50256,
    },
    "bpe",
    small={
        "encoder": _SMALL_TRANSFORMER,
        "decoder": {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "vocab_size": 2000,
            "bos_token_id": 1999,
            "eos_token_id": 1999,
        },
        "decoder_start_token_id": 1999,
        "bos_token_id": 1999,
        "eos_token_id": 1999,
        "pad_token_id": 1999,
    },
    processor={
        "class": "transformers:ViTImageProcessorPil",
        "size": _square(224),
        "image_mean": _HALF,
        "image_std": _HALF,
    },
    small_processor={"size": _square(32)},
    call=_CAPTION,
    small_call=_SMALL_CAPTION,
    counted_as="transformers:VisionEncoderDecoderModel",
)

_FLAN_T5_XL = {
    "model_type": "t5",
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 32128,
    "bos_token_id": 1,
    "decoder_start_token_id": 0,
}
_OPT_2_7B = {
    "model_type": "opt",
    "hidden_size": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "word_embed_proj_dim": 2560,
    "vocab_size": 50272,
    "eos_token_id": 50118,
}

_CAPTIONERS = {
    "Salesforce/blip-image-captioning-base": _blip({}),
    "Salesforce/blip-image-captioning-large": _blip(_VIT_LARGE),
    "Salesforce/blip2-flan-t5-xl": _blip2(
        _FLAN_T5_XL,
        {
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 2,
            "vocab_size": 2000,
        },
        image_token=32100,
        tokenizer="unigram",
        exception="transformers 5 ties Flan-T5's output layer to its embeddings; the study counted both, 65.8 M each",
    ),
    "Salesforce/blip2-opt-2.7b": _blip2(
        _OPT_2_7B,
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
            "vocab_size": 2000,
            "max_position_embeddings": 64,
            "eos_token_id": 1999,
        },
        image_token=50265,
        tokenizer="bpe",
    ),
    "microsoft/git-base": _git({}),
    "microsoft/git-large-coco": _git({**_VIT_LARGE, "patch_size": 14}),
    "nlpconnect/vit-gpt2-image-captioning": _VIT_GPT2,
    "ydshieh/vit-gpt2-coco-en": replace(
        _VIT_GPT2,
        exception=(
            "the study's count is that of GPT-2 alone: this one has the image encoder and the cross-attention too, "
            "like nlpconnect/vit-gpt2-image-captioning, and costs as much there"
        ),
    ),
}

IMAGES: Mapping[str, Architecture] = {**_CLASSIFIERS, **_DETECTORS, **_CAPTIONERS}
