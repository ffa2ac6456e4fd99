"""The example with a language model."""
