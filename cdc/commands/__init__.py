"""What the commands of the CLI do, one module a command; `cdc.cli` parses the arguments."""
