"""The built-in data set: images of simple scenes, drawn from a seed."""
