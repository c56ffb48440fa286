"""Log, metrics, health, memory trend, stall detection and alerts."""
