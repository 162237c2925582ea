"""Reads data sets for training and for metrics: stores, data sets, batches, reader processes."""
