"""What every predict.py does around its model: photographs, folders, globs and videos -> drawings, masks, JSON.

- `command`: the flags, and the work: files found, shared out over the processes, decoded, predicted, noted.
- `files`: what is written for each photograph, and for all. `film`: videos. `journal`: what a stopped run has finished.
- `tracking`: numbers that a film's objects keep. `number_format`: --precision auto.
"""
