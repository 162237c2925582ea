"""What ``ganformer bench`` measures: speed and memory of operators, networks, training, data and scores."""
