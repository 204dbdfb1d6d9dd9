"""The real service between real servers, under random writes and random faults, by a seed."""
