"""A film with what is found drawn onto every frame, and beside it a line of JSON for each frame.

Where PyAV is installed (`pip install av`) the film is H.264, which browsers play, every frame keeps its time, and the
sound is copied. Else OpenCV writes it, silent and at an even rate.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.data.images import open_video, read_frames
from common.errors import UserError
from common.files import write_atomically
from common.results import Instances, Result
from common.run.distributed import is_main
from common.run.model import Picture
from common.run.runlog import Bar
from maskworks.prediction.files import Segments
from maskworks.prediction.tracking import by_bytetrack

Change = Callable[[float, Picture], Picture]  # a frame's time in seconds and its pixels -> what is shown
HINT = "drawn by OpenCV: silent, at an even rate, in a format that few browsers play; pip install av for better"
QUALITY = {"crf": "20"}  # of H.264: the lower, the better and larger; 23 is its default


def predict_film(
    find: Callable[[Picture], Result],
    source: Path,
    target: Path,
    category_ids: Sequence[int],
    threshold: float,
    limit: int,
    track: bool = False,
) -> None:
    """Find the objects in a film's frames, in the first `limit` where that isn't 0, and write both files.

    `track`: objects have a number that they keep from frame to frame.
    """
    if target.exists() and target.samefile(source):
        raise UserError(f"{source}: would be replaced by its drawing; name another folder with --out")
    follow = by_bytetrack(threshold) if track else None
    count = min(frame_count(source), limit or 10**9)
    rewrite = rewrite_by_pyav if find_spec("av") else rewrite_by_opencv

    def work(lines: Path) -> None:
        with lines.open("w", encoding="utf-8") as file, Bar(source.name, count, show=is_main()) as bar:

            def change(seconds: float, frame: Picture) -> Picture:
                result = find(frame)
                if follow:
                    follow(seconds, result)
                said = {"frame": bar.done, "seconds": round(seconds, 6)} | annotations(result, bar.done, category_ids)
                file.write(json.dumps(said) + "\n")
                bar.advance(total=max(count, bar.done + 1))
                return np.asarray(result.draw(frame, threshold))

            rewrite(source, target, change, limit)

    write_atomically(target.with_suffix(".jsonl"), work)
    print(f"video: {target.resolve()}")
    if rewrite is rewrite_by_opencv:
        print(f"{target.name} is {HINT}")


def annotations(result: Result, frame: int, category_ids: Sequence[int]) -> dict[str, Any]:
    """As predictions.json has them, the frame being the image; of a panoptic map its segments."""
    if isinstance(result, Instances):
        return {"annotations": result.to_coco(frame, category_ids)}
    assert isinstance(result, Segments)
    return {"segments_info": result.to_coco(frame, category_ids, "")["segments_info"]}


def rewrite_by_opencv(source: Path, target: Path, change: Change, limit: int) -> None:
    rate = frame_rate(source)
    frames = enumerate(islice(read_frames(source), limit or None))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_video(target, (change(index / rate, frame) for index, frame in frames), rate)


def rewrite_by_pyav(source: Path, target: Path, change: Change, limit: int) -> None:
    import av

    def write(unfinished: Path) -> None:
        settings = {"movflags": "faststart"}  # a browser starts before it has all of it
        try:
            with av.open(str(source)) as film, av.open(str(unfinished), "w", "mp4", options=settings) as drawing:
                copy(film, drawing, change, limit)
        except av.FFmpegError as error:
            raise UserError(f"{source}: cannot be read as a video, or not be drawn ({error.strerror})") from error

    write_atomically(target, write)


def copy(film: Any, drawing: Any, change: Change, limit: int) -> None:
    """One container's frames, changed, into another, each at its own time, and the sound as it is."""
    from av.error import InvalidDataError

    if not film.streams.video:
        raise UserError(f"{film.name}: there is no picture in it, only sound")
    pictures, sounds = film.streams.video[0], sounds_of(film, drawing)
    rate = pictures.average_rate or 25
    encoder, waiting, count, broken = None, [], 0, 0
    for packet in film.demux(pictures, *sounds):
        try:
            frames = packet.decode() if packet.stream is pictures else []
        except InvalidDataError:
            broken += 1
            continue
        for frame in frames[: limit - count if limit else None]:
            seconds = float(count / rate) if frame.time is None else frame.time
            shown = even(change(seconds, upright(frame)))
            encoder = encoder or encoder_for(drawing, rate, pictures.time_base, shown)
            drawing.mux(encoder.encode(at_its_time(film.name, shown, encoder, seconds)))
            count += 1
        if packet.stream is not pictures and packet.dts is not None:  # without a time it only ends the stream
            waiting.append(packet)
        while encoder and waiting:  # the file's head, which comes first, names the picture's size
            sound = waiting.pop(0)
            sound.stream = sounds[sound.stream]
            drawing.mux(sound)
        if limit and count == limit:
            break
    if encoder is None:
        raise UserError(f"{film.name}: the video has no frame that can be decoded; convert it to MP4")
    drawing.mux(encoder.encode(None))
    if broken:
        print(f"{film.name}: {broken} pieces of it cannot be decoded; their frames are left out")


def sounds_of(film: Any, drawing: Any) -> dict[Any, Any]:
    """The streams of sound, each with the one that it is copied to."""
    streams = {}
    for sound in film.streams.audio:
        try:
            streams[sound] = drawing.add_stream_from_template(sound)
        except ValueError:
            print(f"{film.name}: its sound is {sound.codec_context.name}, which an MP4 cannot hold, and is left out")
    return streams


def encoder_for(drawing: Any, rate: Fraction | int, time_base: Fraction, shown: Picture) -> Any:
    encoder = drawing.add_stream("libx264", rate=rate, options=QUALITY)
    encoder.height, encoder.width = shown.shape[:2]
    encoder.pix_fmt, encoder.codec_context.time_base = "yuv420p", time_base
    return encoder


def at_its_time(name: str, shown: Picture, encoder: Any, seconds: float) -> Any:
    from av import VideoFrame

    if shown.shape[:2] != (encoder.height, encoder.width):
        size = f"{shown.shape[1]} x {shown.shape[0]}"
        raise UserError(f"{name}: a frame is {size}, not {encoder.width} x {encoder.height} as the first")
    frame = VideoFrame.from_ndarray(shown, format="rgb24")
    frame.time_base = encoder.codec_context.time_base
    frame.pts = round(seconds / frame.time_base)
    return frame


def upright(frame: Any) -> Picture:
    """RGB [H, W, 3]; a telephone says in a film's head how it was held."""
    pixels: Picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return np.ascontiguousarray(pixels)


def even(shown: Picture) -> Picture:
    """H.264 halves the colours' sides: an odd one gets its last row or column twice."""
    height, width = shown.shape[:2]
    return np.pad(shown, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def frame_rate(path: str | Path) -> float:
    """Frames per second that a video claims; 25 where it claims nothing sensible."""
    capture = open_video(path)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate <= 1000 else 25.0


def write_video(path: str | Path, frames: Iterable[Picture], fps: float) -> None:
    """RGB frames of one size -> an MP4; it takes its name only when it is complete."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.unfinished.mp4")
    writer: cv2.VideoWriter | None = None
    size, count = (0, 0), 0
    try:
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
                if not writer.isOpened():
                    raise UserError(f"{path}: OpenCV cannot write this video; check the folder and its rights")
            if (frame.shape[1], frame.shape[0]) != size:
                expected = f"{size[0]} x {size[1]} as the first"
                raise UserError(f"{path}: a frame is {frame.shape[1]} x {frame.shape[0]}, not {expected}")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
        if writer is None:
            raise UserError(f"{path}: no frames to write")
        writer.release()
        if frame_count(unfinished) < count:  # OpenCV says nothing of a full disk
            raise UserError(f"{path}: the video could not be written completely; is the disk full?")
        unfinished.replace(path)
    finally:
        if writer is not None:
            writer.release()
        unfinished.unlink(missing_ok=True)


def frame_count(path: Path) -> int:
    """Of a video that OpenCV has written; 0 if it isn't whole."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count
