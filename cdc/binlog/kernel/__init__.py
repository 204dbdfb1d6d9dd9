"""The compiled half of cdc/binlog: the only per-row loops of the service.

Bytes in, Arrow buffers out, with the GIL released. Each module has a twin in Python in the package above, which says
what the bytes mean and is asked for the error whenever a kernel function refuses its input: the kernel itself has no
error messages.
"""
