"""The compiled half of reading the source: what touches every row of a SELECT.

`text_rows` turns the packets of a text-protocol result into Arrow columns. `cdc/source/resultset.py` is its twin: it
says what the values mean, and decodes the rows that the kernel leaves.
"""
