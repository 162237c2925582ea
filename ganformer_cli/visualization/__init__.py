"""Pictures to look at: grids, and maps of what each component attends to."""
