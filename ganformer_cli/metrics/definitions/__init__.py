"""The metrics, one file each. A file that is put here with a tuple ``METRICS`` is all that a new metric needs."""

#: Below so many images, scores of features depend on the number so much that they should not be quoted.
FEW_IMAGES = 10_000
