"""`python -m tests.page.pictures`: takes the pictures of docs/playground.md anew, from a real service. Takes minutes."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.flows.service import Service
from tests.page.conftest import CHROMIUM
from tests.rules.documents import ROOT
from tests.waiting import wait_for

DOCS = ROOT / "docs"
PROMPTS = (
    "a red cat sitting on a bench",
    "a blue rocket rising in the snow",
    "a green turtle walking at night",
    "a yellow boat at sea",
    "a purple bird flying",
    "a pink flower spinning",
    "a blue robot walking in the snow",
    "an orange fish shrinking at sea",
)
STEPS = 20


def take_all(browser: Browser, service: Service) -> None:
    save(shot(open_page(browser, service)), "playground-first")
    ask(service, PROMPTS)
    wait_for(lambda: not any(job.status in {"queued", "running"} for job in service.jobs.list()), seconds=900, every=1)
    dark = open_page(browser, service, color_scheme="dark")
    film(dark)
    page = open_page(browser, service)
    page.locator(".tile .frame").nth(3).click()
    page.locator("dialog video").wait_for()
    page.wait_for_timeout(1500)
    save(shot(page), "playground-viewer")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Select", exact=True).click()
    for at in (1, 2):
        page.locator(".tile .choose input").nth(at).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_timeout(1500)
    save(shot(page), "playground-compare")
    narrow = open_page(browser, service, width=390, height=844)
    save(shot(narrow), "playground-phone")


def open_page(browser: Browser, service: Service, *, width: int = 1280, height: int = 800, **options: object) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.goto(service.url)
    page.wait_for_timeout(1500)
    return page


def ask(service: Service, prompts: tuple[str, ...]) -> None:
    for seed, prompt in enumerate(prompts, 3):
        fields = {"prompt": prompt, "seed": seed, "num_frames": 16, "num_inference_steps": STEPS}
        service.client.post(f"{service.url}/v1/videos", json=fields).raise_for_status()


def shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    picture.save(DOCS / f"{name}.webp", quality=72, method=6)


def film(page: Page) -> None:
    """From a prompt to its clip, in pictures half as wide."""
    page.locator("#frames").fill("16")
    page.locator("#frames").press("Tab")
    frames = []
    for word in ("a green", " rocket", " rising", " at night"):
        page.get_by_label("Prompt", exact=True).press_sequentially(word)
        frames.append(shot(page))
    page.wait_for_timeout(800)
    frames.append(shot(page))
    before = page.locator(".tile").count()
    page.get_by_role("button", name="Make the clip").click()
    for _ in range(120):
        page.wait_for_timeout(700)
        frames.append(shot(page))
        if page.locator(".tile").count() > before:
            break
    page.locator(".tile .frame").first.hover()
    for _ in range(16):
        page.wait_for_timeout(120)
        frames.append(shot(page))
    small = [frame.resize((960, 600), Image.Resampling.LANCZOS) for frame in frames]
    small[0].save(DOCS / "playground.webp", save_all=True, append_images=small[1:], duration=220, loop=0, quality=45, method=4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        running = Service(Path(folder))
        running.start()
        try:
            take_all(playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]), running)
        finally:
            running.stop()
