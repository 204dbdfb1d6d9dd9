"""How fast changes are read: logs on private servers, readers side by side, and the stages of ours by themselves.

Knows how figures are taken (docs/benchmarks.md); nothing in the service knows of this package.
"""
