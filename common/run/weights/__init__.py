"""Weights by name: what is published, fetched, converted once; and the Hugging Face Hub."""
