"""Subscriptions, the feeds that deliver to them, and the protocols of `/ws` and the old channels."""
