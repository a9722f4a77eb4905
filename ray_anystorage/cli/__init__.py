"""The command line: what the public functions say, as text and tables for people and as JSON for programs."""
