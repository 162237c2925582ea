"""The metrics, one file each. A file here that calls ``add_metric`` is all that a new metric needs."""

#: Below so many images, scores of features depend on the number so much that they should not be quoted.
FEW_IMAGES = 10_000
