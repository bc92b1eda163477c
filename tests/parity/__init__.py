"""The proof that every network here is numerically the original: `python -m tests.parity CASE...`."""
