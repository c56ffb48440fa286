"""From selected rows to clients: filters and frames (compiled), the hub and its queues, the server."""
