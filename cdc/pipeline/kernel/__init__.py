"""The compiled half of cdc/pipeline: what folding a run costs once an image.

Arrow buffers in, row numbers out, with the GIL released. As in cdc/binlog/kernel: what it does not know it refuses, and
the twin in Python above says what is wrong, or does the work.
"""
