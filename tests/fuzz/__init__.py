"""Coverage-guided fuzzing of validate and decode: `python -m tests.fuzz`, see docs/development.md."""
