"""The report in a real headless Chromium, as a user opens it: from the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from chromium import chromium
from factories import FOUR, annotation_file
from posefix.html_report.page import write_html_report
from posefix.html_report.people import Source
from posefix.io.coco import annotations_of
from posefix.pose_errors.report import make_report

NASTY = "<img src=x onerror=document.title=1>.jpg"


def make_file(folder: Path, images: int, people: int) -> Path:
    """A report of labelled people: the first keypoint is missing before, and one image has a nasty name."""
    rng = np.random.default_rng(1)
    file = annotation_file(rng, images=images, people=people, skeleton=FOUR)
    for image in file["images"]:
        blocks = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        assert cv2.imwrite(str(folder / image["file_name"]), blocks)
    file["images"][0]["file_name"] = NASTY
    truth = annotations_of(file, FOUR)
    after = [
        {"image_id": i, "category_id": 1, "score": 0.2 + 0.7 * n / len(truth.image_ids), "id": n}
        | {"keypoints": np.where(p[:, 2:] > 0, [*[1, 1], 0.45], 0).reshape(-1).tolist()}
        for n, (i, p) in enumerate(zip(truth.image_ids.tolist(), truth.ground_truth, strict=True))
    ]
    for entry, pose in zip(after, truth.ground_truth, strict=True):
        entry["keypoints"] = np.concatenate([pose[:, :2], 0.9 * (pose[:, 2:] > 0)], 1).reshape(-1).tolist()
    before = [{**e, "keypoints": [v + 6 * (n % 3 < 2) for n, v in enumerate(e["keypoints"])]} for e in after]
    for entry in before:
        entry["keypoints"][:3] = [0.0, 0.0, 0.0]
    report = make_report(truth, before, FOUR, refined=after)
    path = folder / "report.html"
    write_html_report(path, Source(before, after, FOUR, folder, truth, report), title="test & <b>", most=5000)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("report"), 4, 8)


@pytest.fixture
def page(file: Path) -> Iterator[Any]:
    with chromium() as driver:
        driver.get(file.as_uri())
        yield driver
        assert driver.get_log("browser") == []  # no error and no warning


def every(page: Any, selector: str) -> list[Any]:
    found: list[Any] = page.find_elements("css selector", selector)
    return found


def one(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def choose(page: Any, selector: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(one(page, selector)).select_by_visible_text(text)


def shown(page: Any) -> int:
    return int(one(page, "#count").text.split()[0])


def test_summary_charts_and_people(page: Any) -> None:
    assert one(page, "#title").text == "test & <b>"
    assert page.title == "test & <b>"
    assert len(every(page, "#charts svg")) == 3
    assert len(every(page, ".tile")) >= 7
    assert len(every(page, ".card")) == 24  # the others come when one scrolls
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    end = time.monotonic() + 10
    while len(every(page, ".card")) < 32 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(every(page, ".card")) == 32
    assert shown(page) == 32


def test_slider_moves_the_border(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def border() -> float:
        return float(one(page, ".card .divider").get_dom_attribute("x1"))

    start = border()
    slider = one(page, ".card input[type=range]")
    slider.send_keys(Keys.ARROW_LEFT * 10)
    by_key = border()
    assert by_key < start
    width = float(one(page, ".card .stage svg").get_dom_attribute("viewBox").split()[2])
    assert by_key == pytest.approx(0.4 * width)
    from selenium.webdriver import ActionChains

    stage = one(page, ".card .stage")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    wide, high = stage.size["width"], stage.size["height"]
    # A corner without keypoints.
    ActionChains(page).move_to_element_with_offset(
        stage, int(0.42 * wide), int(0.48 * high)
    ).click_and_hold().release().perform()
    assert border() == pytest.approx(0.92 * width, abs=4)


def test_a_keypoint_tells_about_itself(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    one(page, ".card input[type=range]").send_keys(Keys.HOME)  # everything is after
    texts = set()
    for mark in every(page, ".card:first-child .after [data-keypoint]"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
        ActionChains(page).move_to_element(mark).perform()
        texts.add(one(page, "#tip").text)
    assert any("filled" in t for t in texts)
    assert any("moved 8.5 px" in t and "confidence 0.90" in t and "→ good" in t for t in texts)


def test_filters(page: Any) -> None:
    people = page.execute_script("return data.people")
    search = one(page, "#search")
    search.send_keys("002.jpg")
    of_image = [p for p in people if p["image"] == "002.jpg"]
    assert shown(page) == len(of_image) == 8
    assert all("002" in c.text for c in every(page, ".card .name"))
    choose(page, "#keypoint", "left hand")
    some = [p for p in of_image if p["before"][1]]
    assert shown(page) == len(some) < 8
    choose(page, "#was", "jitter")
    assert shown(page) == len([p for p in some if p["kinds"] and p["kinds"][0][1] == 1]) < len(some)
    reset(page)
    one(page, "#score").send_keys("0.6")
    assert shown(page) == len([p for p in people if p["score"][1] >= 0.6]) < 32
    reset(page)
    choose(page, "#keypoint", "head")
    choose(page, "#change", "moved")
    assert shown(page) == 0  # it was missing
    choose(page, "#change", "filled")
    assert shown(page) == 32
    choose(page, "#order", "order of the file")
    entries = [int(c.get_attribute("data-entry")) for c in every(page, ".card")]
    assert entries == list(range(24))


def reset(page: Any) -> None:
    one(page, "button[type=reset]").click()
    end = time.monotonic() + 5
    while shown(page) != 32 and time.monotonic() < end:
        time.sleep(0.05)
    assert shown(page) == 32


def test_one_person_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    body = one(page, "body")
    body.send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "search"
    name = one(page, ".card .name")
    name.send_keys(Keys.ENTER)
    assert one(page, "dialog").get_attribute("open") is not None
    first = one(page, "#dialog-title").text
    assert len(every(page, "dialog tbody tr")) == 4
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert one(page, "#dialog-title").text != first
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert one(page, "#dialog-title").text == first
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert one(page, "dialog").get_attribute("open") is None


def test_names_do_nothing(page: Any) -> None:
    one(page, "#search").send_keys("onerror")
    assert shown(page) == 8
    assert NASTY in one(page, ".card .name").text
    assert every(page, "img") == []
    assert page.title == "test & <b>"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_phone_and_dark(file: Path, width: int, dark: bool) -> None:
    with chromium(width, 844, dark=dark) as driver:
        driver.get(file.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width  # nothing is cut
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(v) for v in ground.strip("rgb()").split(",")) < 300) is dark
        driver.execute_script("document.querySelector('.card .name').click()")
        assert driver.execute_script("return document.querySelector('dialog').scrollWidth") <= width
        assert driver.get_log("browser") == []


@pytest.mark.slow
def test_two_thousand_people_open_quickly(tmp_path: Path) -> None:
    path = make_file(tmp_path, 500, 4)
    with chromium() as driver:
        driver.get("about:blank")
        start = time.monotonic()
        driver.get(path.as_uri())
        assert shown(driver) == 2000
        seconds = time.monotonic() - start
        one(driver, "#search").send_keys("499.jpg")
        assert shown(driver) == 4
    assert seconds < 3
