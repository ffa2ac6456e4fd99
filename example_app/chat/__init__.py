"""Example application: a language model that streams its answers, with a page and an OpenAI-compatible API."""
