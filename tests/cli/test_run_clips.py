"""run writes clips as .mp4, .gif or frames, sound as .wav, and refuses what cannot be written before it computes."""

from __future__ import annotations

import io
import json
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from soda_runtime import Session

from soda_export.cli.results import check_result
from soda_export.cli.run import run
from soda_export.errors import UsageError
from soda_export.report.clips import write_gif
from soda_export.report.images import make_sheet
from soda_export.report.sounds import save_sound
from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_CHUNKS

CLIP, PICTURE = GOLDEN_V5_CHUNKS, GOLDEN_V5
ASKED: dict[str, Any] = {"labels": "1,2", "seed": 3}


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray[Any, Any]]:
    """What the runtime makes of the request, as pictures of both samples."""
    with Session.open(CLIP) as session:
        session.generate([1, 2], seed=3)
        video = session.result()
    assert video.shape[:2] == (2, 9)
    return [make_sheet(video[:, index]) for index in range(9)]


def test_frames_are_pictures_in_a_folder(tmp_path: Path, frames: list[np.ndarray[Any, Any]]) -> None:
    for _ in range(2):  # a second run puts its own in their place
        run(str(CLIP), **ASKED, out=f"{tmp_path}/frames/")
        names = sorted(path.name for path in (tmp_path / "frames").iterdir())
        assert names == [f"frame-{index:05d}.png" for index in range(9)]
        for name, expected in zip(names, frames, strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "frames" / name)), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_a_gif_plays_all_frames_at_the_bundles_rate(tmp_path: Path, frames: list[np.ndarray[Any, Any]]) -> None:
    run(str(CLIP), **ASKED, out=str(tmp_path / "clip.gif"))
    with Image.open(tmp_path / "clip.gif") as clip:
        assert clip.n_frames == 9
        length = 0
        for index, expected in enumerate(frames):
            clip.seek(index)
            length += clip.info["duration"]
            shown = np.asarray(clip.convert("RGB")).astype(int)
            assert np.abs(shown - expected.astype(int)).mean() < 8  # of 256 colours
        assert length == pytest.approx(9 / 8 * 1000, abs=10)


def test_a_gif_keeps_time_at_rates_that_are_no_whole_hundredths() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    write_gif(iter(noise), 24, 24.0, file)
    with Image.open(file) as clip:
        lengths = []
        for index in range(clip.n_frames):
            clip.seek(index)
            lengths.append(clip.info["duration"])
    assert (sum(lengths), set(lengths)) == (1000, {40, 50})


def test_an_mp4_plays_all_frames_at_the_bundles_rate(tmp_path: Path, frames: list[np.ndarray[Any, Any]]) -> None:
    av = pytest.importorskip("av")
    run(str(CLIP), **ASKED, out=str(tmp_path / "clip.mp4"))
    with av.open(tmp_path / "clip.mp4") as clip:
        assert float(clip.streams.video[0].average_rate) == 8.0
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in clip.decode(video=0)]
    assert len(shown) == 9
    height, width, _ = frames[0].shape
    for decoded, expected in zip(shown, frames, strict=True):
        assert np.abs(decoded[:height, :width] - expected.astype(int)).mean() < 10  # colours are at half the size


@pytest.mark.parametrize(
    ("bundle", "out", "message"),
    [
        (CLIP, "clip.png", r"this bundle makes video; name a \.mp4, a \.gif or a folder"),
        (CLIP, "clip.avi", r"name a \.mp4, a \.gif or a folder \(frames/\), or a \.npy file for the latents"),
        (CLIP, "clip.wav", "this bundle makes video"),
        (PICTURE, "clip.gif", r"this bundle makes an image; name a \.png"),
        (CLIP, "nowhere/frames/", "nowhere does not exist"),
        (CLIP, "full/", "holds more than frames of a clip"),
        (CLIP, "full/text.gif", "exists and is not a .gif video"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    bundle: Path, out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/text.gif").write_text("mine")
    monkeypatch.setattr(Session, "start", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(UsageError, match=message) as refused:
        run(str(bundle), labels="1", out=out)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "full/text.gif").read_text() == "mine"


def test_without_the_extra_an_mp4_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with Session.open(CLIP) as session, pytest.raises(UsageError, match=r"pip install soda-export\[video\]"):
        check_result(None, session)


def test_a_sound_is_written_with_sixteen_bits(tmp_path: Path) -> None:
    sound = np.array([[0.0, 0.5, -0.5, 2.0], [0.25, -1.0, 1.0, 0.0]], np.float32)
    with (tmp_path / "a.wav").open("wb") as file:
        save_sound(sound, 16000, file)
    with wave.open(str(tmp_path / "a.wav")) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate(), read.getnframes()) == (2, 2, 16000, 4)
        numbers = np.frombuffer(read.readframes(4), "<i2").reshape(4, 2).T / 32767
    np.testing.assert_allclose(numbers, np.clip(sound, -1, 1), atol=1 / 32767)


def test_the_latents_of_a_clip_are_written_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(CLIP), **ASKED, out=str(tmp_path / "out.npy"), json=True)
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    with Session.open(CLIP) as session:
        assert np.array_equal(np.load(tmp_path / "out.npy"), session.generate([1, 2], seed=3))
