"""Prediction over any number of photographs: Ray Data shares the work out, fsspec reads, Parquet keeps what is found.

- `sources`: what SOURCE names, as pieces of work. `photographs`: a piece's pictures, read and decoded.
- `finding`: the model's answers, as rows. `parts`: rows as Parquet files, whole or not there; what is done already.
- `engine`: Ray Data between these. `results`: from Parquet back to COCO's format, or to a folder.
- `scoring`: the rows beside annotations, as COCO's average precision; `scores_of_parts` is how.
"""
