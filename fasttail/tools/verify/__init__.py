"""`fasttail verify`: the operators' checklist as a program.

log ──► log_stats ────────────────────────────────┐
/metrics, /health, docker stats ──► observations ─┴─► checks ──► table, JSON, exit code
"""
