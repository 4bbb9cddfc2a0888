"""The full-size acceptance figures of delivery, rebalancing and memory: `python -m tests.acceptance`.

The tests in tests/integration run the same scenarios in small; what one costs and shows stands in docs/reliability.md.
"""
