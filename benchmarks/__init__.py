"""What Headrace costs and how fast it is, measured against what it could at best be and against what people write.

`python -m benchmarks NAME` starts a real broker and a real Triton, runs the sides of one comparison in turn, several
rounds of them, and prints ratios with their spread. docs/performance.md says what each figure means.
"""
