"""A run or a set of predictions as one HTML file: scores, curves, pictures and what a model gets wrong."""
