"""Flows of the page, each through the browser as a person would go."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from playwright.sync_api import Locator, Page, expect

from promptreel.jobs.keys import KeyStore
from tests.flows.service import LONG, SHORT, Service
from tests.page.conftest import LONGEST, Watched, Windows, faults_of
from tests.waiting import wait_for

expect.set_options(timeout=LONGEST)

PROMPT = "a red ball bouncing"
MOST_REQUESTS = 12
MOST_BYTES = 60_000
HOSTILE = "<img src=x onerror=alert(1)><svg/onload=alert(2)>{{7*7}}'\"--><script>alert(3)</script>"


def fill(page: Page, prompt: str = PROMPT, *, frames: int = 4, size: int = 96) -> None:
    """A clip that takes a second."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Width in pixels").fill(str(size))
    page.get_by_label("Width in pixels").press("Tab")
    page.get_by_label("Height in pixels").fill(str(size))
    page.get_by_label("Height in pixels").press("Tab")
    page.locator("#frames").fill(str(frames))
    page.locator("#frames").press("Tab")
    page.get_by_text("Steps, guidance, scheduler, file").click()
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Steps", exact=True).press("Tab")


def tiles(page: Page) -> Locator:
    return page.locator(".tile")


def newest(service: Service) -> dict[str, Any]:
    return service.client.get(f"{service.url}/v1/videos?limit=1").json()["data"][0]


def content(service: Service, video_id: str) -> bytes:
    return service.client.get(f"{service.url}/v1/videos/{video_id}/content").raise_for_status().content


def make(service: Service, prompt: str = PROMPT, **fields: object) -> str:
    """A clip that is there already; its id."""
    body = {"prompt": prompt, "size": "96x96", "num_frames": 4, "num_inference_steps": 2, "seed": 7, **fields}
    video = service.client.post(f"{service.url}/v1/videos", json=body).raise_for_status().json()
    job_id = int(video["id"].removeprefix("video_"))
    wait_for(lambda: service.jobs.get(job_id).is_final)
    return video["id"]


def test_first_visit_is_light_and_offers_prompts_that_work(window: Watched, service: Service) -> None:
    asked: list[Any] = []
    window.context.on("requestfinished", lambda request: asked.append(request))  # noqa: PLW0108 - playwright marks what it calls
    page = window.open()
    expect(page.get_by_role("heading", name="Write what a clip shows")).to_be_visible()
    expect(page.locator(".make .chosen")).to_contain_text("Cutout")
    page.wait_for_load_state("load")
    first = [request for request in asked if "examples" not in request.url]
    assert 8 < len(first) + 1 <= MOST_REQUESTS, [request.url for request in first]  # one is the stream, which does not end
    assert sum(request.sizes()["responseBodySize"] for request in first) <= MOST_BYTES

    page.get_by_role("button", name="a blue rocket rising in the snow").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue rocket rising in the snow")
    expect(page.locator(".go")).to_contain_text(re.compile(r"About \d+ s"))
    expect(page.locator(".heard")).to_have_text("")


def test_prompt_becomes_a_playing_clip(page: Page, service: Service) -> None:
    fill(page, "a red ball bouncing dragon")
    expect(page.locator(".heard")).to_contain_text('The model "cutout" does not know: dragon')
    page.get_by_role("button", name="Make the clip").click()
    expect(tiles(page)).to_have_count(1)
    made = newest(service)
    assert (made["prompt"], made["size"], made["num_frames"]) == ("a red ball bouncing dragon", "96x96", 4)

    tiles(page).locator(".frame").click()
    player = page.locator("dialog video")
    expect(player).to_be_visible()
    wait_for(lambda: player.evaluate("player => player.currentTime > 0 && player.videoWidth === 96"))
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("slider", name="Frame", exact=True).fill("0")
    page.get_by_role("button", name="One frame on (.)").click()
    expect(page.locator("dialog output")).to_have_text("2 / 4")
    assert player.evaluate("player => player.currentTime") == pytest.approx(1.5 / made["fps"])

    for language, words in {"Python": f"seed={made['seed']}", "JavaScript": '"seed": ', "curl": "-d '{"}.items():
        page.get_by_role("button", name=language, exact=True).click()
        expect(page.locator("dialog pre")).to_contain_text(words)
    body = page.locator("dialog pre").inner_text().partition("-d '")[2].rstrip("'\n")
    again = service.client.post(f"{service.url}/v1/videos", json=json.loads(body)).json()
    wait_for(lambda: service.jobs.get(int(again["id"].removeprefix("video_"))).is_final)
    assert content(service, again["id"]) == content(service, made["id"])

    page.reload()
    expect(page.locator("dialog .whole-prompt")).to_have_text("a red ball bouncing dragon")  # the address names the clip


def test_remix_restores_every_setting(page: Page, service: Service) -> None:
    wanted = {"guidance_scale": 3.5, "scheduler": "DDIMScheduler", "fps": 6, "negative_prompt": "blue", "output_type": "webm"}
    source_id = make(service, **wanted)
    page.goto(f"{service.url}/#{source_id}")
    page.get_by_role("button", name="Remix").click()
    expect(page.locator(".note")).to_contain_text("All settings of the clip are in the form.")
    page.get_by_role("button", name="Make the clip").click()
    wait_for(lambda: newest(service)["id"] != source_id and newest(service)["status"] == "completed")
    source = service.client.get(f"{service.url}/v1/videos/{source_id}").json()
    made = newest(service)

    apart = {"id", "created_at", "completed_at", "inference_time_s", "stage_durations", "peak_memory_mb"}
    assert {name: made[name] for name in made.keys() - apart} == {name: source[name] for name in made.keys() - apart}
    assert content(service, made["id"]) == content(service, source_id)


def drop(page: Page, data: bytes, name: str, media_type: str) -> None:
    page.evaluate(
        """([data, name, type]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], name, { type }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [list(data), name, media_type],
    )


def test_dropped_clip_brings_its_own_settings(page: Page, service: Service) -> None:
    source_id = make(service, "a green turtle walking", num_frames=5, guidance_scale=2)
    expect(tiles(page).first).to_be_visible()
    drop(page, content(service, source_id), "clip.mp4", "video/mp4")

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green turtle walking")
    expect(page.locator("#frames")).to_have_value("5")
    expect(page.locator("#seed")).to_have_value("7")
    expect(page.locator(".chips")).to_contain_text("Guidance 2")


def test_frame_of_a_clip_starts_the_next(page: Page, service: Service) -> None:
    source_id = make(service)
    page.goto(f"{service.url}/#{source_id}")
    wait_for(lambda: page.locator("dialog video").evaluate("player => player.readyState >= 2"))
    page.get_by_role("button", name="Use this frame").click()
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    fill(page, "a blue ball bouncing")
    page.get_by_role("button", name="Make the clip").click()
    wait_for(lambda: newest(service)["prompt"] == "a blue ball bouncing" and newest(service)["status"] == "completed")
    assert newest(service)["input_reference"] == "image"

    page.get_by_role("button", name="Start from nothing").click()
    page.goto(f"{service.url}/#{newest(service)['id']}")
    page.get_by_role("button", name="Remix").click()  # its picture comes back, too
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()


def test_compared_clips_share_a_clock_and_show_only_what_differs(page: Page, service: Service) -> None:
    two = [make(service, num_frames=16, guidance_scale=scale) for scale in (2, 6)]
    page.reload()
    page.get_by_role("button", name="Select", exact=True).click()
    for each in two:
        page.locator(f'.tile[data-id="{each}"] input').check()
    page.get_by_role("button", name="Compare").click()
    players = page.locator("dialog video")
    expect(players).to_have_count(2)
    wait_for(lambda: players.first.evaluate("player => player.currentTime > 0.2"))
    page.get_by_role("button", name="Pause all").click()
    page.get_by_label("Time").fill("0.5")

    assert players.nth(0).evaluate("player => player.currentTime") == players.nth(1).evaluate("player => player.currentTime")
    assert page.locator("dialog tbody tr").all_inner_texts() == ["Guidance\t2\t6"]


def test_chosen_clips_are_saved_as_one_file_and_deleted(page: Page, service: Service, tmp_path: Path) -> None:
    two = [make(service, seed=seed) for seed in (3, 4)]
    page.get_by_role("button", name="Select", exact=True).click()
    for each in two:
        page.locator(f'.tile[data-id="{each}"] input').check()
    with page.expect_download() as download:
        page.get_by_role("toolbar").get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "clips.zip")
    with ZipFile(tmp_path / "clips.zip") as saved:
        assert saved.testzip() is None
        assert {name: saved.read(name) for name in saved.namelist()} == {f"{each}.mp4": content(service, each) for each in two}

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    for each in two:
        expect(page.locator(f'.tile[data-id="{each}"]')).to_have_count(0)
        assert service.client.get(f"{service.url}/v1/videos/{each}").status_code == 404


def test_grid_over_two_settings_is_one_batch(page: Page, service: Service) -> None:
    fill(page)
    page.get_by_text("Explore values of a setting").click()
    page.get_by_label("Setting across", exact=True).select_option("guidance_scale")
    page.get_by_label("Values of setting across").fill("2, 5")
    page.get_by_label("Setting down", exact=True).select_option("scheduler")
    page.get_by_label("Values of setting down").fill("ddim, euler")
    page.get_by_role("button", name="Make 4 clips").click()
    expect(page.locator("dialog td video")).to_have_count(4)
    made = service.client.get(f"{service.url}/v1/videos?limit=4").json()["data"]

    assert len({video["seed"] for video in made}) == 1
    assert [(video["scheduler"], video["guidance_scale"]) for video in reversed(made)] == [
        ("DDIMScheduler", 2),
        ("DDIMScheduler", 5),
        ("EulerDiscreteScheduler", 2),
        ("EulerDiscreteScheduler", 5),
    ]
    assert faults_of(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Last grid").click()
    expect(page.locator("dialog td video")).to_have_count(4)


def test_reload_restart_and_cancel_in_mid_run_lose_nothing(window: Watched, service: Service) -> None:
    window.expected.append("net::ERR_")  # while the server is away
    page = window.open()
    service.client.post(
        f"{service.url}/v1/videos",
        json={"prompt": LONG["prompt"], "size": "96x96", "seconds": 30, "fps": 8, "num_inference_steps": 50},
    )
    row = page.locator(".row-of-queue")
    expect(row.get_by_role("progressbar")).not_to_have_attribute("aria-valuenow", "0")
    expect(row.locator("img")).to_be_visible()  # the moving preview
    expect(page).to_have_title(re.compile(r"\d+ % · 1 to go"))
    page.reload()
    expect(row).to_contain_text("drawing")

    service.process.kill()
    service.process.wait()
    expect(page.locator(".lost")).to_be_visible()
    service.start()
    expect(page.locator(".lost")).to_have_count(0)
    expect(row).to_contain_text("drawing")
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)
    expect(tiles(page).first).to_contain_text("Cancelled")


def test_two_tabs_with_eight_jobs(windows: Windows, service: Service) -> None:
    window = windows()
    first, second = window.open(), window.open()
    expect(tiles(second).first).to_be_visible()
    before = tiles(second).count()
    fill(first)
    first.get_by_label("How many clips").select_option("8")
    first.get_by_role("button", name="Make 8 clips").click()

    for each in (first, second):
        expect(tiles(each)).to_have_count(before + 8)
        expect(each.locator(".row-of-queue")).to_have_count(0)
    first.get_by_role("searchbox").fill("no such prompt")
    expect(first.get_by_text("No clip matches.")).to_be_visible()


def test_prompts_stay_text(page: Page, service: Service) -> None:
    video_id = make(service, HOSTILE, negative_prompt=HOSTILE)
    tile = page.locator(f'.tile[data-id="{video_id}"]')
    expect(tile.locator(".prompt")).to_have_text(HOSTILE)
    tile.locator(".frame").click()
    expect(page.locator("dialog .whole-prompt")).to_have_text(HOSTILE)
    expect(page.locator("dialog pre")).to_contain_text("onerror=alert")

    assert page.locator("img[src='x'], svg[onload], #app script").count() == 0


def test_everything_by_keyboard(page: Page, service: Service) -> None:
    make(service)
    page.reload()
    expect(tiles(page).first).to_be_visible()
    fill(page)
    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("a red ball bouncing 1")  # keys are letters in here
    before = newest(service)["id"]
    page.keyboard.press("Control+Enter")
    wait_for(lambda: newest(service)["id"] != before)
    video_id = newest(service)["id"]
    expect(page.locator(f'.tile[data-id="{video_id}"]')).to_be_visible()

    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("j")
    expect(tiles(page).nth(0).locator(".frame")).to_be_focused()
    page.keyboard.press("f")
    expect(tiles(page).nth(0).get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")
    expect(page.locator("dialog.viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(tiles(page).nth(0).locator(".frame")).to_be_focused()
    page.keyboard.press("c")
    expect(page.get_by_role("toolbar", name="Chosen clips")).to_contain_text("1 clip chosen")
    page.keyboard.press("c")
    page.keyboard.press("r")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.locator("dialog.keys")).to_be_visible()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 320)])
def test_every_view_is_accessible_and_fits(windows: Windows, service: Service, theme: str, width: int) -> None:
    two = [make(service, seed=seed) for seed in (1, 2)]
    page = windows(width=width, color_scheme=theme).open()
    expect(tiles(page).first).to_be_visible()

    def check(view: str) -> None:
        assert faults_of(page) == [], view
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), f"{view} is too wide"

    if width < 900:
        page.get_by_text("Settings", exact=True).click()
    with service.no_job_begins():
        fill(page)
        page.get_by_role("button", name="Make the clip").click()
        expect(page.locator(".row-of-queue")).to_have_count(1)
        check("clips")
        page.locator(".row-of-queue").get_by_role("button", name="Cancel").click()
    expect(page.locator(".row-of-queue")).to_have_count(0)
    page.goto(f"{service.url}/#{two[0]}")
    expect(page.locator("dialog.viewer")).to_be_visible()
    check("viewer")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Select", exact=True).click()
    for each in two:
        page.locator(f'.tile[data-id="{each}"] input').check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("dialog.compare")).to_be_visible()
    check("compare")
    page.keyboard.press("Escape")
    for name in ("Models", "System"):
        page.get_by_role("navigation").get_by_role("button", name=name).click()
        expect(page.get_by_role("heading", name=name, exact=True, level=1)).to_be_visible()
        check(name)


def test_key_signs_in_and_shows_only_its_own_clips(windows: Windows, service: Service, tmp_path: Path) -> None:
    make(service)
    keys = KeyStore(service.database)
    mine, other = keys.create("mine"), keys.create("other")
    wait_for(service.is_closed)
    try:
        headers = {"Authorization": f"Bearer {other[1]}"}
        service.client.post(f"{service.url}/v1/videos", json=SHORT | {"prompt": "another key's"}, headers=headers)
        window = windows()
        window.expected.append("401 (Unauthorized)")  # the browser logs every refused request
        page = window.open()
        expect(page.get_by_label("API key")).to_be_focused()
        assert faults_of(page) == []
        page.get_by_label("API key").fill("pr_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert").first).to_have_text("This key is unknown here, or was revoked.")
        page.get_by_label("API key").fill(mine[1])
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Write what a clip shows")).to_be_visible()

        fill(page)
        page.get_by_role("button", name="Make the clip").click()
        expect(tiles(page)).to_have_count(1)
        expect(page.locator("body")).not_to_contain_text("another key's")
        (cookie,) = window.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert mine[1] not in page.evaluate("() => document.cookie + location.href + JSON.stringify(localStorage)")
        page.reload()
        expect(tiles(page)).to_have_count(1)
        page.get_by_role("button", name="System").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
    finally:
        for key, _ in (mine, other):
            keys.revoke(str(key.id))
    wait_for(lambda: not service.is_closed())
