"""Panoptic scene graphs (Yang et al., arXiv 2207.11247): what the segments of a photograph have to do with others."""
