"""Data sets and pictures.

- `coco`, `annotation_files`, `annotation_checks`: COCO-format files as NumPy columns, checked while they are read.
- `images`: decoding and resizing, bit for bit as OpenCV does it.
- `augment`, `loader`, `batches`: which images a step sees, how changed, padded to one size.
"""
