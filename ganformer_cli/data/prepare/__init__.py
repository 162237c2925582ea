"""Makes a data set of images: read from a source, brought to one size, written as zips of PNGs."""
