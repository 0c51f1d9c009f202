from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from recipes.cutout.probes import FRAMES, LABELS, judge, labels_of, load_probe
from recipes.cutout.world import draw_clip, pick_scene


@pytest.mark.slow
def test_packaged_probe_recognizes_drawn_clips(tmp_path: Path) -> None:
    rng = random.Random("a test of the probe")
    scenes = [pick_scene(rng) for _ in range(40)]

    seen = judge(load_probe(tmp_path), np.stack([draw_clip(scene, FRAMES) for scene in scenes]))

    for label in LABELS:
        right = sum(answer[label] == labels_of(scene)[label] for answer, scene in zip(seen, scenes, strict=True))
        assert right >= 37, label
