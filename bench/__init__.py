"""Benchmarks of fasttail as installed: `python -m bench list`, `python -m bench run NAME`."""
