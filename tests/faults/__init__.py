"""Twenty faults on purpose: `python -m tests.faults`. What they showed stands in docs/reliability.md."""
