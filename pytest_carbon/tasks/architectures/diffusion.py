"""The study's image generators as data, from their published configurations.

The default image is the UNet's ``sample_size`` times 8 a side, the default number of steps 50. Inferred from the study:
dreamlike-photoreal draws at 768 pixels (2.55 times the duration of the same UNet at 512), with its family's scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_carbon.tasks.architectures.record import Architecture, transformer

_NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
_PNDM = {"class": "diffusers:PNDMScheduler", **_NOISE, "skip_prk_steps": True, "set_alpha_to_one": False}
_DDIM = {"class": "diffusers:DDIMScheduler", **_NOISE, "clip_sample": False, "set_alpha_to_one": False}
_EULER = {"class": "diffusers:EulerDiscreteScheduler", **_NOISE, "timestep_spacing": "leading"}

_UNET_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_UNET_TINY = {
    **_UNET_1,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "mid_block_type": None,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
}
_UNET_2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
}
_UNET_XL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def _vae(side: int, channels: list[int], layers: int, **more: Any) -> dict[str, Any]:
    return {
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "sample_size": side,
        **more,
    }


_VAE = [128, 256, 512, 512], 2
_CLIP_L = {**transformer(768, 12, 12, 3072), "projection_dim": 768}
_OPEN_CLIP_H = {**transformer(1024, 23, 16, 4096), "hidden_act": "gelu", "projection_dim": 512}
_OPEN_CLIP_G = {**transformer(1280, 32, 20, 5120), "hidden_act": "gelu", "projection_dim": 1280}
_SAFETY_CHECKER = {
    "projection_dim": 768,
    "vision_config": {**transformer(1024, 24, 16, 4096), "patch_size": 14, "projection_dim": 768},
    "text_config": transformer(768, 12, 12, 3072),
}

_SMALL_VAE = _vae(16, [8, 16], 1, norm_num_groups=4)
_SMALL_IDS = {"vocab_size": 2000, "bos_token_id": 1998, "eos_token_id": 1999}
_SMALL_TEXT = {**transformer(32, 2, 2, 64), "projection_dim": 32, **_SMALL_IDS}
_SMALL_UNET = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
_SMALL_CHECKER = {
    "projection_dim": 32,
    "vision_config": {**transformer(32, 2, 2, 64), "image_size": 28, "projection_dim": 32},
    "text_config": transformer(32, 2, 2, 64),
}
_CALL = {"num_inference_steps": 50}
_SMALL_CALL = {"num_inference_steps": 4, "height": 16, "width": 16}


def _stable_diffusion(
    unet: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
    *,
    scheduler: Mapping[str, Any] = _PNDM,
    checked: bool = False,
    moved_to: str | None = None,
) -> Architecture:
    """Make Stable Diffusion 1 or 2; ``checked``: with the safety checker."""
    side = unet["sample_size"] * 8
    vae = _vae(side, *_VAE, scaling_factor=0.18215)
    config = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}
    small: dict[str, Any] = {"unet": _SMALL_UNET, "vae": _SMALL_VAE, "text_encoder": _SMALL_TEXT}
    if checked:
        config["safety_checker"] = _SAFETY_CHECKER
        small["safety_checker"] = _SMALL_CHECKER
    return Architecture(
        "diffusers:StableDiffusionPipeline",
        config,
        small,
        processor={"class": "transformers:CLIPImageProcessorPil"},
        small_processor={"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
        call={**_CALL, "height": side, "width": side},
        small_call=_SMALL_CALL,
        moved_to=moved_to,
    )


DIFFUSION: Mapping[str, Architecture] = {
    "CompVis/stable-diffusion-v1-4": _stable_diffusion(_UNET_1, _CLIP_L, checked=True),
    "runwayml/stable-diffusion-v1-5": _stable_diffusion(
        _UNET_1, _CLIP_L, checked=True, moved_to="stable-diffusion-v1-5/stable-diffusion-v1-5"
    ),
    "prompthero/openjourney": _stable_diffusion(_UNET_1, _CLIP_L, checked=True),
    "dreamlike-art/dreamlike-photoreal-2.0": _stable_diffusion({**_UNET_1, "sample_size": 96}, _CLIP_L),
    "nota-ai/bk-sdm-tiny": _stable_diffusion(_UNET_TINY, _CLIP_L, checked=True),
    "segmind/tiny-sd": _stable_diffusion(_UNET_TINY, _CLIP_L),
    "stabilityai/stable-diffusion-2-1": _stable_diffusion(
        _UNET_2, _OPEN_CLIP_H, scheduler={**_DDIM, "prediction_type": "v_prediction"}
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Architecture(
        "diffusers:StableDiffusionXLPipeline",
        {
            "unet": _UNET_XL,
            "vae": _vae(1024, *_VAE, scaling_factor=0.13025, force_upcast=True),
            "text_encoder": _CLIP_L,
            "text_encoder_2": _OPEN_CLIP_G,
            "scheduler": _EULER,
        },
        small={
            "unet": {
                **_SMALL_UNET,
                "cross_attention_dim": 64,
                "transformer_layers_per_block": 1,
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 32 + 6 * 8,
            },
            "vae": _SMALL_VAE,
            "text_encoder": _SMALL_TEXT,
            "text_encoder_2": _SMALL_TEXT,
        },
        call={**_CALL, "height": 1024, "width": 1024},
        small_call=_SMALL_CALL,
    ),
}
