"""The speech recognisers as data, from their published configurations."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_carbon.tasks.architectures.record import Architecture, encoder_decoder

AUDIO: Mapping[str, Architecture] = {
    "openai/whisper-large-v3": Architecture(
        "transformers:WhisperForConditionalGeneration",
        {
            **encoder_decoder(1280, 32, 20, 5120),
            "vocab_size": 51866,
            "num_mel_bins": 128,
            "bos_token_id": 50257,
            "eos_token_id": 50257,
            "pad_token_id": 50256,
            "decoder_start_token_id": 50258,
            "begin_suppress_tokens": [220, 50257],
        },
        small={
            **encoder_decoder(32, 2, 2, 64),
            "vocab_size": 2000,
            "num_mel_bins": 16,
            "max_source_positions": 150,
            "max_target_positions": 64,
            "bos_token_id": 1998,
            "eos_token_id": 1998,
            "pad_token_id": 1997,
            "decoder_start_token_id": 1999,
            "begin_suppress_tokens": None,
        },
        processor={"class": "transformers:WhisperFeatureExtractor", "feature_size": 128, "chunk_length": 30},
        small_processor={"feature_size": 16, "chunk_length": 3},
    ),
}
