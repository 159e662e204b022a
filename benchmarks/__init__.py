"""The figures of docs/benchmarks.md: each module prints one JSON object."""
