"""How the page is used, in a real Chromium: keys, the pointer, addresses and the browser's way back."""

from urllib.parse import quote_plus

import pytest

from detection.evaluation.errors import KINDS

SHOWN = "document.querySelector('dialog[open]') !== null"
FOCUS = "document.activeElement.id"


def test_keys_and_the_address(scene, single, visitor):
    page = visitor.open(single, "#score=0.5")
    order = visitor.order()
    ids = [quote_plus(scene.annotations.image_ids[picture], safe="*") for picture in order]
    page.locator(".tile").nth(1).click()
    visitor.until(SHOWN)
    assert page.url.endswith(f"#score=0.5&picture={ids[1]}")
    for key, place in (("ArrowRight", 2), ("j", 3), ("k", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        visitor.until(f"app.viewer.picture === {order[place]}")
    for key, zoom in (("+", 1.5), ("+", 2.25), ("-", 1.5), ("0", 1)):
        page.keyboard.press(key)
        visitor.until(f"app.viewer.view.zoom === {zoom}")
    visitor.settle()
    assert page.url.endswith(f"&picture={ids[0]}")
    page.go_back()  # past the open picture, however many were looked at
    visitor.until(f"!({SHOWN})")
    assert page.url.endswith("#score=0.5")
    page.go_forward()
    visitor.until(SHOWN)
    page.keyboard.press("Escape")
    visitor.until(f"!({SHOWN}) && document.activeElement.matches('.tile')")
    visitor.settle()
    assert page.url.endswith("#score=0.5")


def test_no_key_is_lost_while_the_address_is_written(single, visitor):
    """A key every 0.2 s, just when the address is written: it must not bring a former position back."""
    page = visitor.open(single, "#score=0.1")
    page.focus("#sliders input")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
    visitor.settle()
    assert page.evaluate("app.state.scores[0]") == pytest.approx(0.17) and page.url.endswith("#score=0.17")


def test_no_key_is_lost_where_the_disk_has_no_history(single, visitor):
    """Browsers that forbid a page on the disk to change its history: the address is replaced, and the event ignored."""
    page = visitor.open(single, "#score=0.1")
    page.evaluate("() => { history.replaceState = history.pushState = () => { throw new Error('forbidden') } }")
    page.focus("#sliders input")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
    visitor.settle()
    assert page.evaluate("app.state.scores[0]") == pytest.approx(0.15) and page.url.endswith("#score=0.15")
    page.locator(".tile").first.click()  # the link itself is followed
    visitor.until(SHOWN)
    page.keyboard.press("Escape")
    visitor.until(f"!({SHOWN})")


def test_closing_leaves_no_dead_steps_behind(single, visitor):
    page = visitor.open(single, "#score=0.5")
    before = page.evaluate("history.length")
    for place in range(3):
        page.locator(".tile").nth(place).click()
        visitor.until(SHOWN)
        page.keyboard.press("l")
        page.evaluate("app.slide(0, 0.3)")  # what is chosen in the open picture stays
        page.keyboard.press("Escape")
        visitor.until(f"!({SHOWN}) && !app.returning && location.hash === '#score=0.3'")
    assert page.evaluate("history.length") == before + 1  # one step forward, to the last picture
    page.go_back()
    assert page.url == "about:blank"


def test_a_shared_link_is_closed_in_place(scene, single, visitor):
    page = visitor.open(single, f"#picture={quote_plus(scene.annotations.image_ids[4])}")
    visitor.until(SHOWN)
    page.keyboard.press("Escape")
    visitor.until(f"!({SHOWN}) && location.hash === ''")


def test_keys_work_wherever_the_focus_was(single, visitor):
    page = visitor.open(single, "#score=0.2")
    order = visitor.order()
    page.locator(".tile").first.click()
    visitor.until(f"{SHOWN} && {FOCUS} === 'stages'")
    page.locator(".boxes tbody tr").first.focus()  # the row is replaced by the next picture's
    for place in (1, 2):
        page.keyboard.press("ArrowRight")
        visitor.until(f"app.viewer.picture === {order[place]} && document.activeElement.closest('dialog') !== null")
    page.evaluate(f"app.change({{ picture: {order[-2]} }})")
    visitor.until(f"app.viewer.picture === {order[-2]}")
    page.click("#next")
    visitor.until(f"app.viewer.picture === {order[-1]} && {FOCUS} === 'next'")
    assert page.get_attribute("#next", "aria-disabled") == "true"
    page.keyboard.press("ArrowLeft")
    visitor.until(f"app.viewer.picture === {order[-2]}")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("#help:not([hidden])")
    page.keyboard.press("Escape")
    visitor.until(f"!({SHOWN})")


def test_a_link_restores_the_view(scene, single, visitor):
    chosen, picture = (quote_plus(name) for name in (scene.annotations.class_names[0], scene.annotations.image_ids[3]))
    fragment = f"#score=0.4&class={chosen}&kinds=true%2Cmissed&size=large&sort=name&find=IMAGE+5&picture={picture}"
    page = visitor.open(single, fragment)
    visitor.until(SHOWN)
    state = page.evaluate("app.state")
    kinds = [*KINDS, "missed", "ignored object"]
    assert state["scores"] == [0.4] and (state["label"], state["size"], state["sort"]) == (1, 2, "name")
    assert [kind for kind, on in zip(kinds, state["kinds"], strict=True) if on] == ["true", "missed"]
    assert page.inner_text("#viewer-title") == f"3.jpg {scene.annotations.image_ids[3]}"
    assert page.input_value("#find") == "IMAGE 5"
    page = visitor.open(single, "#score=x&class=99&size=huge&sort=bad&picture=1e9")
    assert page.evaluate("writeState(app.model, app.state)") == ""  # nonsense is as if it were not there


def test_pictures_are_found_by_file_and_id(scene, single, visitor):
    page = visitor.open(single, "#score=0.9")
    page.fill("#find", "IMAGE 7")  # an id: its file is 11.jpg
    visitor.until("app.order.length === 1 && location.hash.includes('find=IMAGE+7')")
    assert visitor.order() == [11]
    here = scene.annotations.objects(11)
    assert page.evaluate("kindIndices(app.model).ignoredObject") == 8
    assert visitor.counts()["ignored object"] == [int(scene.annotations.ignore[here].sum())]  # of what was found
    page.fill("#find", "1.jpg")
    visitor.until("app.order.length === 2")
    assert sorted(visitor.order()) == [1, 11]
    page.click("#reset")
    visitor.until("location.hash === '' && app.order.length === 12")
    assert page.input_value("#find") == ""


def test_a_double_click_leaves_one_kind(single, visitor):
    page = visitor.open(single)
    page.dblclick("[data-kind=duplicate]")
    visitor.settle()
    pressed = page.eval_on_selector_all(".chip[aria-pressed=true]", "all => all.map(e => e.dataset.kind)")
    assert pressed == ["duplicate"] and page.url.endswith("#kinds=duplicate")


def test_zooming_keeps_the_point_and_dragging_follows_the_pointer(scene, single, visitor):
    page = visitor.open(single, f"#picture={quote_plus(scene.annotations.image_ids[0])}")
    visitor.until(SHOWN)
    page.wait_for_timeout(100)
    sides = page.locator(".stage img").bounding_box()
    point = sides["x"] + 0.3 * sides["width"], sides["y"] + 0.6 * sides["height"]

    def under() -> list[float]:
        """Which share of the picture lies under the point."""
        now = page.locator(".stage img").bounding_box()
        return [(point[0] - now["x"]) / now["width"], (point[1] - now["y"]) / now["height"]]

    page.mouse.move(*point)
    page.mouse.wheel(0, -300)
    visitor.until("Math.abs(app.viewer.view.zoom - Math.E) < 0.01")  # 300 pixels of the wheel are a factor of e
    page.wait_for_timeout(50)
    assert under() == pytest.approx([0.3, 0.6], abs=1e-3)
    before = page.locator(".stage img").bounding_box()
    page.mouse.down()
    page.mouse.move(point[0] + 60, point[1] - 25, steps=4)
    page.mouse.up()
    page.wait_for_timeout(50)
    after = page.locator(".stage img").bounding_box()
    assert [after[side] - before[side] for side in ("x", "y", "width")] == pytest.approx([60, -25, 0], abs=0.1)
    stage = page.locator(".stage").bounding_box()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(50)
    moved = page.locator(".stage img").bounding_box()["x"] - after["x"]
    assert moved == pytest.approx(-0.15 * stage["width"], abs=0.5)


def test_names_stay_in_the_part_that_is_seen(report_of_one, tmp_path, visitor):
    """Of a box that fills a zoomed picture no edge is seen; its name is cut at 24 letters and stands inside."""
    report = report_of_one(tmp_path, tmp_path / "gone.jpg", (60, 100), name="x" * 300)
    page = visitor.open(report, "#picture=one")
    visitor.until(SHOWN)
    for _ in range(5):
        page.keyboard.press("+")
    stage = page.locator(".stage").bounding_box()
    page.locator(".boxes tbody tr").first.hover()
    page.wait_for_selector(".stage .strong")
    name = page.locator(".stage text").first
    assert name.evaluate("e => e.firstChild.textContent") == "1 \u2068" + "x" * 23 + "…\u2069"
    assert name.locator("title").evaluate("e => e.textContent") == "x" * 300
    sides = name.bounding_box()
    outline = 4  # pixels around the letters, which the browser counts too
    for start, length in (("x", "width"), ("y", "height")):
        assert stage[start] - outline <= sides[start]
        assert sides[start] + sides[length] <= stage[start] + stage[length] + outline
    assert page.locator(".boxes td").nth(1).bounding_box()["height"] < 60  # two lines


def test_a_tile_with_the_focus_is_not_under_the_bar(single, visitor):
    page = visitor.open(single)
    page.set_viewport_size({"width": 700 + 100, "height": 600})
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(150)
    page.locator(".tile").last.focus()
    for _ in range(8):
        page.keyboard.press("Shift+Tab")
        page.wait_for_timeout(30)
    tops = page.evaluate(
        "[document.activeElement.getBoundingClientRect().top,"
        " document.getElementById('controls').getBoundingClientRect().bottom]"
    )
    assert page.evaluate("document.activeElement.matches('.tile')") and tops[0] >= tops[1]
