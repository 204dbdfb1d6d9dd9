"""Loads: a table's rows from the source, by key order, into its target."""
