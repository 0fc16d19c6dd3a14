"""How soon a report shows its first picture, and how its slider moves: ``python tests/measure/report_page.py FOLDER``.

Needs Playwright for Python and a Chromium. Times are the page's own clock, from the start of loading to the first
decoded thumbnail, and from a step of the slider to the end of the update and to the second frame after it.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
LOADS = 3

FIRST_PICTURE = """
window.firstPicture = new Promise((done) => {
  const watch = new MutationObserver(() => {
    const image = document.querySelector(".tile img");
    if (!image) return;
    watch.disconnect();
    image.decode().then(() => requestAnimationFrame(() => done(performance.now())));
  });
  watch.observe(document, { childList: true, subtree: true });
});
"""
SLIDER = """
async () => {
  const input = document.querySelector("#sliders input");
  const updates = [], frames = [];
  for (let step = 0; step <= 100; step++) {
    input.value = String(step / 100);
    input.dispatchEvent(new Event("input"));
    const start = performance.now();
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    frames.push(performance.now() - start);
    updates.push(Number(document.body.dataset.milliseconds));
  }
  return { "slider, update": updates, "slider, two frames": frames };
}
"""


def main(folder: str) -> None:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        for _ in range(LOADS):
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            measure(page, (Path(folder).resolve() / "index.html").as_uri())
            page.close()
        browser.close()


def measure(page: Page, address: str) -> None:
    page.add_init_script(FIRST_PICTURE)
    page.goto(address, wait_until="commit")
    print(f"first picture: {page.evaluate('firstPicture'):.0f} ms")
    page.evaluate("document.getElementById('pictures').scrollIntoView()")
    page.wait_for_timeout(500)
    for name, times in page.evaluate(SLIDER).items():
        times.sort()
        print(f"{name}: median {times[50]:.0f} ms, 95 % {times[95]:.0f} ms, worst {times[-1]:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
