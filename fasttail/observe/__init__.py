"""What fasttail tells about itself: log, metrics, health. Imports nothing else of this package."""
