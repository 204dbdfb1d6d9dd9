"""Checkpoints: the value, its versioned encoding, and the store that writes it inside the sink's own transaction."""
