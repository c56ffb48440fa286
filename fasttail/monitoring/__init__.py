"""The process's own health: its memory over time, and the restart in place."""
