"""The model card of a model on the Hugging Face Hub: what a call of it takes, as text and as metadata."""
