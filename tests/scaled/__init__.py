"""The gate of scaled decoding: real pictures at the sizes of real cameras, and `python -m tests.scaled` over all of them."""
