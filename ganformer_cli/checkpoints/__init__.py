"""Model files, training states, and the run folder that holds them. Headers and folders are read without torch."""
