"""The comparisons that ship with tleg, by name: TOML files, each with its command and time in its header."""
