"""Changes as lines of JSON: what `cdc tail` shows, which of it, and in which form.

Takes events from a dump session or from binlog files through the assembler of `cdc/source`, and gives text. Knows no
sink, no checkpoint and nothing of options.
"""
