"""`fasttail verify`: the operators' checklist as a program.

log ──► reading ─┐
/metrics, /health, docker stats ──► looks ─┴─► checks ──► table, JSON, exit code
"""
