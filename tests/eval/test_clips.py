"""Moving shapes: a rendered clip is judged to be as its caption says, and a changed one is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from soda_export.eval.clips import (
    FRAMES,
    Clip,
    ClipChecker,
    Verdict,
    all_clips,
    draw_clips,
    held_out_clips,
    render_clip,
)
from soda_export.eval.judges import find_judge
from soda_export.eval.notes import draw_tunes, mel_spectrogram, play
from soda_export.eval.scenes import Thing, find_objects
from soda_export.eval.worlds import CLIPS, TONES, held_out_captions, held_out_tunes
from soda_export.eval.worlds import held_out_clips as judged_clips

CLIP = Clip(Thing("red", "circle", "small", True, 32.0, 30.0, 8.5), "to the left", 9.0, True)


def test_an_object_moves_as_its_caption_says() -> None:
    assert CLIP.caption == "a small red circle moving quickly to the left"
    seen = find_objects(render_clip(CLIP))
    centres = [np.argwhere(frame).mean(0) for frame in seen]
    assert len(centres) == FRAMES
    steps = np.diff(np.array(centres), axis=0)
    assert steps[:, 0] == pytest.approx(np.zeros(FRAMES - 1), abs=0.1)
    assert steps[:, 1] == pytest.approx(np.full(FRAMES - 1, -9.0), abs=0.5)


def test_an_object_stays_away_from_the_edge() -> None:
    scenes = [scene for clip in draw_clips(200, 3, held_out=True) for scene in clip.scenes]
    places = [(thing.x, thing.y) for scene in scenes for thing in scene.things]
    assert np.min(places) >= 15
    assert np.max(places) <= 64 - 15


def test_every_caption_is_there_once() -> None:
    captions = [clip.caption for clip in all_clips()]
    assert len(set(captions)) == len(captions) == 6 * 3 * 3 * 4 * 3
    assert {clip.caption for clip in draw_clips(100, 4, held_out=True)} <= {clip.caption for clip in held_out_clips(61)}


def test_rendered_clips_keep_their_captions() -> None:
    clips = held_out_clips(64, seed=3)
    verdicts = ClipChecker().verdicts(np.stack([render_clip(clip) for clip in clips]), clips)
    assert np.mean([verdict.all for verdict in verdicts]) > 0.96


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict(object=True, direction=True, speed=True)),
        ({"direction": "to the right"}, Verdict(object=True, direction=False, speed=False)),
        ({"direction": "up"}, Verdict(object=True, direction=False, speed=False)),
        ({"speed": 4.0}, Verdict(object=True, direction=True, speed=False)),
        ({"thing": replace(CLIP.thing, shape="square")}, Verdict(object=False, direction=True, speed=True)),
        ({"thing": replace(CLIP.thing, colour="blue")}, Verdict(object=False, direction=False, speed=False)),
    ],
)
def test_another_clip_does_not(change: dict, verdict: Verdict) -> None:
    (found,) = ClipChecker().verdicts(render_clip(replace(CLIP, **change))[None], [CLIP])
    assert found == verdict


def test_one_wrong_frame_is_a_wrong_object() -> None:
    frames = render_clip(CLIP)
    frames[2] = 0.93
    (found,) = ClipChecker().verdicts(frames[None], [CLIP])
    assert found == Verdict(object=False, direction=True, speed=True)


def test_captions_of_judged_clips_are_not_trained_on() -> None:
    trained = {clip.caption for clip in draw_clips(500, 5, held_out=False)}
    assert not trained & set(held_out_captions(CLIPS) or ())


def test_the_judge_of_clips_tells_rendered_ones_from_others() -> None:
    judge = find_judge(CLIPS, (4, 4, 16, 16))
    assert judge is not None
    clips = np.stack([render_clip(clip) for clip in judged_clips()[:6]])
    assert judge.verdicts(clips, range(256, 262)).all()
    assert not judge.verdicts(clips[:, ::-1], range(6)).any()
    assert judge.features(clips).shape == (6, 16)


def test_the_judge_of_tones_tells_rendered_ones_from_others() -> None:
    judge = find_judge(TONES, (8, 8, 16))
    assert judge is not None
    made, other = (
        np.stack([mel_spectrogram(play(tune)) for tune in tunes])[:, None] / 2 + 0.5
        for tunes in (held_out_tunes()[:6], draw_tunes(6, 1, held_out=False))
    )
    assert judge.verdicts(made, range(237, 243)).all()
    assert not judge.verdicts(other, range(6)).any()
    assert judge.features(made).shape == (6, 16)
