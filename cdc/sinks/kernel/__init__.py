"""The compiled half of cdc/sinks: what encoding costs once a row or a value.

Arrow buffers in, blocks of bytes out, with the GIL released. As in cdc/binlog/kernel: usual values are written here,
every other one is left to the encoder in Python above, which knows the policies and has the error messages.
"""
