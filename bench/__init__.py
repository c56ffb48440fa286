"""Benchmarks of the installed fasttail: `python -m bench list`, `python -m bench run NAME`."""
