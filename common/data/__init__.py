"""Data sets and pictures: COCO-format files read and checked, images decoded and resized, augmented, batched."""
