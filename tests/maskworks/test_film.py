"""Films: what is found is drawn at each frame's own time, the sound stays, and each frame has a line of JSON."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data.images import read_frames
from common.errors import UserError
from common.results import Instances
from common.run.model import Picture
from maskworks.prediction import film
from maskworks.prediction.film import predict_film, write_video

TIMES = (0, 40, 50, 200, 900)  # milliseconds
HEIGHT, WIDTH = 47, 64


def found(frame: Picture) -> Instances:
    """One object with the frame's mean as its score, over the upper half."""
    mask = torch.zeros(1, *frame.shape[:2], dtype=torch.bool)
    mask[:, : frame.shape[0] // 2] = True
    score = torch.tensor([float(frame.mean() / 255)])
    box = torch.tensor([[0.0, 0.0, frame.shape[1], frame.shape[0] // 2]])
    return Instances(score, torch.tensor([0]), box, mask, frame.shape[:2], ("a",))


def lines_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_without_pyav_opencv_draws_it_and_a_hint_is_given(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    write_video(tmp_path / "in.mp4", [np.full((48, 64, 3), grey, np.uint8) for grey in (50, 100, 150)], 10)
    predict_film(found, tmp_path / "in.mp4", tmp_path / "out.mp4", (7,), 0.0, limit=2)
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 2
    assert [(line["frame"], line["seconds"]) for line in lines_of(tmp_path)] == [(0, 0.0), (1, 0.1)]
    assert [line["annotations"][0]["category_id"] for line in lines_of(tmp_path)] == [7, 7]
    assert [line["annotations"][0]["score"] for line in lines_of(tmp_path)] == pytest.approx(
        [50 / 255, 100 / 255], abs=0.02
    )
    said = capsys.readouterr()
    assert "pip install av" in said.out
    assert "in.mp4 2/2" in said.err


# --- PyAV


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five grey frames at odd times, brighter and brighter, of an odd height, with a tone."""
    av = pytest.importorskip("av", reason="pip install av for this test")
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=25)
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "bgr0"
        picture.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for number, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(picture.encode(frame))
        wave = (np.sin(np.arange(16000) / 10) * 9000).astype(np.int16)[None]
        tone = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        tone.sample_rate, tone.pts = 16000, 0
        container.mux([*picture.encode(None), *sound.encode(tone), *sound.encode(None)])
    return path


def test_times_and_sound_stay_and_the_film_is_h264(source: Path, tmp_path: Path, capsys: Any) -> None:
    import av

    predict_film(found, source, tmp_path / "out.mp4", (7,), 0.9, limit=0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        picture = container.streams.video[0]
        assert (picture.codec_context.name, picture.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(picture)]
    assert [time for time, _ in frames] == pytest.approx([time / 1000 for time in TIMES], abs=1e-3)
    assert [pixels.shape for _, pixels in frames] == [(HEIGHT + 1, WIDTH, 3)] * 5
    assert [pixels.mean() for _, pixels in frames] == pytest.approx([40 * number for number in range(5)], abs=4)
    assert sound_of(tmp_path / "out.mp4") == sound_of(source) != []
    assert [line["seconds"] for line in lines_of(tmp_path)] == pytest.approx([time / 1000 for time in TIMES])
    assert [line["annotations"][0]["image_id"] for line in lines_of(tmp_path)] == list(range(5))
    assert {path.name for path in tmp_path.iterdir()} == {"in.mkv", "out.mp4", "out.jsonl"}
    assert "pip install" not in capsys.readouterr().out


def sound_of(path: Path) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_a_limit_ends_the_film(source: Path, tmp_path: Path) -> None:
    predict_film(found, source, tmp_path / "out.mp4", (7,), 0.9, limit=2)
    assert len(lines_of(tmp_path)) == len(list(read_frames(tmp_path / "out.mp4"))) == 2


def test_sound_that_an_mp4_cannot_hold_is_named(tmp_path: Path, capsys: Any) -> None:
    av = pytest.importorskip("av", reason="pip install av for this test")
    with av.open(str(tmp_path / "old.avi"), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        container.add_stream("adpcm_ms", rate=16000, layout="mono")
        for _ in range(3):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
    predict_film(found, tmp_path / "old.avi", tmp_path / "out.mp4", (7,), 0.9, limit=0)
    assert "its sound is adpcm_ms, which an MP4 cannot hold, and is left out" in capsys.readouterr().out
    assert [line["seconds"] for line in lines_of(tmp_path)] == pytest.approx([0, 0.04, 0.08])


def test_a_film_that_was_held_upright_is_upright(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install av for this test")
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 255
    write_video(tmp_path / "in.mp4", [half] * 3, 10)
    content = (tmp_path / "in.mp4").read_bytes()
    at = content.index(b"tkhd") + 44  # the picture's matrix, in its head: a quarter turn
    turned = np.array([0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 2**30], ">i4").tobytes()
    (tmp_path / "in.mp4").write_bytes(content[:at] + turned + content[at + 36 :])
    seen: list[Picture] = []
    predict_film(
        lambda frame: found(seen.append(frame) or frame), tmp_path / "in.mp4", tmp_path / "out.mp4", (7,), 2.0, 1
    )
    expected = next(iter(read_frames(tmp_path / "in.mp4")))  # OpenCV turns it
    assert seen[0].shape == expected.shape == (64, 48, 3)
    assert np.abs(seen[0].astype(int) - expected).mean() < 5


def test_what_is_no_film_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install av for this test")
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"bad\.mp4: cannot be read as a video"):
        predict_film(found, tmp_path / "bad.mp4", tmp_path / "out.mp4", (7,), 0.9, limit=0)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]
