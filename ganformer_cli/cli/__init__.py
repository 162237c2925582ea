"""The command line: one module a command, ``options`` for what they share. Nothing heavy is imported at the top."""
