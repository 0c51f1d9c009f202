from __future__ import annotations

from promptreel.jobs.params import VideoParams


def test_row_from_before_there_were_output_types_is_an_mp4() -> None:
    row = VideoParams(model_id="cutout", prompt="a cat", output_type="gif").to_json()
    del row["output_type"]

    assert VideoParams.from_json(row).output_type == "mp4"


def test_row_from_before_there_were_inits_starts_from_none() -> None:
    row = VideoParams(model_id="cutout", prompt="a cat", init_key="inits/image/ab.png").to_json()
    del row["init_key"]

    assert VideoParams.from_json(row).init_key is None


def test_params_read_back_as_they_were_written() -> None:
    params = VideoParams(model_id="cutout", prompt="a cat", seed=7, output_type="webm", init_key="inits/image/ab.png")

    assert VideoParams.from_json(params.to_json()) == params
