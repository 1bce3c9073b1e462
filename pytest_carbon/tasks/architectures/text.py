"""The study's text models as data, and a sentence encoder.

Only differences from the configuration class's defaults are listed. Two things are not the files' own: no end of text
is forced (``min_new_tokens`` forbids it), and the special tokens of small variants lie within the small vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_carbon.tasks.architectures.record import Architecture, encoder_decoder, transformer

Config = Mapping[str, Any]

# What a task puts on top of the base model; nothing for a sentence's embedding, the mean over the base model's tokens.
BASE = "Model"
CLASSIFY = "ForSequenceClassification"
TAG = "ForTokenClassification"
ANSWER = "ForQuestionAnswering"
FILL = "ForMaskedLM"
WRITE = "ForCausalLM"
REWRITE = "ForConditionalGeneration"

_SMALL_VOCABULARY = 2000
_LAST = _SMALL_VOCABULARY - 1


def _family(prefix: str, small: Config) -> Callable[..., Architecture]:
    """Return a maker of a family's models, from configs that they share."""

    def model(head: str, *shared: Config, **own: Any) -> Architecture:
        config = {key: value for part in (*shared, own) for key, value in part.items()}
        return Architecture(f"transformers:{prefix}{head}", config, {"vocab_size": _SMALL_VOCABULARY, **small})

    return model


# --- Encoders ---

_SMALL_ENCODER = transformer(64, 2, 2, 128)

_bert = _family("Bert", _SMALL_ENCODER)
_distilbert = _family("DistilBert", {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128})
_electra = _family("Electra", {**_SMALL_ENCODER, "embedding_size": 64})
_roberta = _family("Roberta", _SMALL_ENCODER)
_xlm_roberta = _family("XLMRoberta", _SMALL_ENCODER)
_albert = _family("Albert", {**_SMALL_ENCODER, "embedding_size": 32})
_deberta = _family("Deberta", _SMALL_ENCODER)
_deberta_v2 = _family("DebertaV2", _SMALL_ENCODER)

# BertConfig's and DistilBertConfig's defaults are the base size for uncased English: nothing to add for that.
CASED: Config = {"vocab_size": 28996}
MULTILINGUAL_CASED: Config = {"vocab_size": 119547}
MULTILINGUAL_UNCASED: Config = {"vocab_size": 105879}

LARGE: Config = transformer(1024, 24, 16, 4096)
MINI_LM: Config = transformer(384, 6, 12, 1536)
_BASE_SIZE = transformer(768, 12, 12, 3072)
ELECTRA_BASE: Config = {"embedding_size": 768, **_BASE_SIZE}
# 512 tokens: the first two positions are not used. The class's own defaults are BERT's.
ROBERTA: Config = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
XLM_ROBERTA: Config = {**ROBERTA, "vocab_size": 250002}
BERTWEET: Config = {**ROBERTA, "vocab_size": 64001, "max_position_embeddings": 130}
DEBERTA_BASE: Config = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
MDEBERTA_V3_BASE: Config = {
    **_BASE_SIZE,
    **DEBERTA_BASE,
    "vocab_size": 251000,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}

# --- Decoders ---

_SMALL_END = {"bos_token_id": _LAST, "eos_token_id": _LAST}


def _gpt_neo_size(width: int, layers: int, heads: int) -> dict[str, Any]:
    attention = [[["global", "local"], layers // 2]]
    return {"hidden_size": width, "num_layers": layers, "num_heads": heads, "attention_types": attention}


def _bloom_size(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {"pad_token_id": 3, "hidden_size": width, "n_layer": layers, "n_head": heads}


_gpt2 = _family("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 2, **_SMALL_END})
_gpt_neo = _family("GPTNeo", {**_gpt_neo_size(64, 2, 2), **_SMALL_END})
_opt = _family("OPT", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 128})
_bloom = _family("Bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 2})

# BloomConfig's defaults are those of a toy. BLOOMz is BLOOM, trained further: the same architectures.
BLOOM_560M = _bloom_size(1024, 24, 16)
BLOOM_1B7 = _bloom_size(2048, 24, 16)
BLOOM_3B = _bloom_size(2560, 30, 32)
BLOOM_7B1 = _bloom_size(4096, 30, 32)

# --- Encoders with a decoder ---

_SMALL_BART = encoder_decoder(64, 2, 2, 128)

_bart = _family("Bart", _SMALL_BART)
_led = _family("LED", {**_SMALL_BART, "attention_window": 64, "max_encoder_position_embeddings": 1024})
_pegasus = _family("Pegasus", _SMALL_BART)
_t5 = _family("T5", {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2})

NO_FORCED_END: Config = {"forced_eos_token_id": None}
# BartConfig's defaults are bart-large; fine-tuned on CNN/DailyMail and XSum it has lost the mask token.
BART_BASE: Config = {**NO_FORCED_END, **encoder_decoder(768, 6, 12, 3072)}
BART_LARGE_SUMMARIES: Config = {**NO_FORCED_END, "vocab_size": 50264}
# The input is padded to a multiple of the window: a short text costs what 1,024 tokens cost.
LED_LARGE: Config = {"attention_window": 1024}
PEGASUS_LARGE: Config = {
    **NO_FORCED_END,
    **encoder_decoder(1024, 16, 16, 4096),
    "vocab_size": 96103,
    "activation_function": "relu",
    "scale_embedding": True,
}
# T5Config always ties the embeddings; here this flag means "outputs are not scaled", as in T5 1.1.
FLAN_T5: Config = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}

TEXT: Mapping[str, Architecture] = {
    # text-classification
    "cardiffnlp/twitter-roberta-base-sentiment-latest": _roberta(CLASSIFY, ROBERTA, num_labels=3),
    "cardiffnlp/twitter-xlm-roberta-base-sentiment": _xlm_roberta(CLASSIFY, XLM_ROBERTA, num_labels=3),
    "distilbert-base-uncased-finetuned-sst-2-english": _distilbert(CLASSIFY),
    "finiteautomata/bertweet-base-sentiment-analysis": _roberta(CLASSIFY, BERTWEET, num_labels=3),
    "lvwerra/distilbert-imdb": _distilbert(CLASSIFY),
    "nlptown/bert-base-multilingual-uncased-sentiment": _bert(CLASSIFY, MULTILINGUAL_UNCASED, num_labels=5),
    "sbcBI/sentiment_analysis_model": _distilbert(CLASSIFY, num_labels=3),
    "siebert/sentiment-roberta-large-english": _roberta(CLASSIFY, ROBERTA, LARGE),
    # extractive-question-answering
    "bert-large-uncased-whole-word-masking-finetuned-squad": _bert(ANSWER, LARGE),
    "deepset/bert-large-uncased-whole-word-masking-squad2": _bert(ANSWER, LARGE),
    "deepset/electra-base-squad2": _electra(ANSWER, ELECTRA_BASE),
    "deepset/roberta-base-squad2": _roberta(ANSWER, ROBERTA),
    "deepset/tinyroberta-squad2": _roberta(ANSWER, ROBERTA, num_hidden_layers=6),
    "distilbert-base-cased-distilled-squad": _distilbert(ANSWER, CASED),
    "distilbert-base-uncased-distilled-squad": _distilbert(ANSWER),
    "timpal0l/mdeberta-v3-base-squad2": _deberta_v2(ANSWER, MDEBERTA_V3_BASE),
    # fill-mask
    "albert-base-v2": _albert(FILL, _BASE_SIZE),
    "bert-base-cased": _bert(FILL, CASED),
    "bert-base-multilingual-cased": _bert(FILL, MULTILINGUAL_CASED),
    "bert-base-uncased": _bert(FILL),
    "distilbert-base-uncased": _distilbert(FILL),
    "microsoft/deberta-base": _deberta(FILL, DEBERTA_BASE),
    "roberta-base": _roberta(FILL, ROBERTA),
    "xlm-roberta-base": _xlm_roberta(FILL, XLM_ROBERTA),
    # token-classification: nine labels are CoNLL-2003's, 45 the Penn Treebank's
    "Babelscape/wikineural-multilingual-ner": _bert(TAG, MULTILINGUAL_CASED, num_labels=9),
    "Jean-Baptiste/roberta-large-ner-english": _roberta(TAG, ROBERTA, LARGE, num_labels=5),
    "QCRI/bert-base-multilingual-cased-pos-english": _bert(TAG, MULTILINGUAL_CASED, num_labels=45),
    "dmargutierrez/distilbert-base-multilingual-cased-mapa_coarse-ner": _distilbert(
        TAG, MULTILINGUAL_CASED, num_labels=13
    ),
    "dslim/bert-base-NER": _bert(TAG, CASED, num_labels=9),
    "dslim/bert-large-NER": _bert(TAG, LARGE, CASED, num_labels=9),
    "elastic/distilbert-base-cased-finetuned-conll03-english": _distilbert(TAG, CASED, num_labels=9),
    "xlm-roberta-large-finetuned-conll03-english": _xlm_roberta(TAG, XLM_ROBERTA, LARGE, num_labels=8),
    # sentence-similarity
    "sentence-transformers/all-MiniLM-L6-v2": _bert(BASE, MINI_LM),
    # text-generation
    "EleutherAI/gpt-neo-125m": _gpt_neo(WRITE, _gpt_neo_size(768, 12, 12)),
    "bigscience/bloom-560m": _bloom(WRITE, BLOOM_560M),
    "distilgpt2": _gpt2("LMHeadModel", n_layer=6),
    "facebook/opt-1.3b": _opt(WRITE, hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, ffn_dim=8192),
    "facebook/opt-6.7b": _opt(WRITE, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, ffn_dim=16384),
    "gpt2": _gpt2("LMHeadModel"),
    "gpt2-medium": _gpt2("LMHeadModel", n_embd=1024, n_layer=24, n_head=16),
    "gpt2-xl": _gpt2("LMHeadModel", n_embd=1600, n_layer=48, n_head=25),
    # summarization
    "ainize/bart-base-cnn": _bart(REWRITE, BART_BASE),
    "facebook/bart-large-cnn": _bart(REWRITE, BART_LARGE_SUMMARIES),
    "google/pegasus-large": _pegasus(REWRITE, PEGASUS_LARGE),
    "google/pegasus-multi_news": _pegasus(REWRITE, PEGASUS_LARGE),
    "google/pegasus-xsum": _pegasus(REWRITE, PEGASUS_LARGE, max_position_embeddings=512),
    "pszemraj/led-large-book-summary": _led(REWRITE, LED_LARGE),
    "sshleifer/distilbart-cnn-12-6": _bart(REWRITE, BART_LARGE_SUMMARIES, decoder_layers=6),
    "sshleifer/distilbart-xsum-12-6": _bart(REWRITE, BART_LARGE_SUMMARIES, decoder_layers=6),
    # zero-shot-*
    "bigscience/bloomz-560m": _bloom(WRITE, BLOOM_560M),
    "bigscience/bloomz-1b7": _bloom(WRITE, BLOOM_1B7),
    "bigscience/bloomz-3b": _bloom(WRITE, BLOOM_3B),
    "bigscience/bloomz-7b1": _bloom(WRITE, BLOOM_7B1),
    "google/flan-t5-base": _t5(REWRITE, FLAN_T5, d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/flan-t5-large": _t5(REWRITE, FLAN_T5, d_model=1024, d_ff=2816, num_layers=24, num_heads=16),
    "google/flan-t5-xl": _t5(REWRITE, FLAN_T5, d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "google/flan-t5-xxl": _t5(REWRITE, FLAN_T5, d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
}
