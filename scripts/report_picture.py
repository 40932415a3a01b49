"""Take the README's picture of the demo's report: python scripts/report_picture.py runs/demo/report.html OUT.png."""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Browser

page, out = (Path(word) for word in sys.argv[1:3])
with tempfile.TemporaryDirectory() as profile, Browser(Path(profile), width=1180, height=1180) as browser:
    browser.open(page.resolve().as_uri())
    browser.wait("document.documentElement.dataset.ready === 'yes'")
    search = "const field = document.getElementById('search'); field.value = 'pick-place'; "
    browser.run(search + "field.dispatchEvent(new Event('input', {bubbles: true}))")
    browser.run("document.getElementById('watch').scrollIntoView()")
    browser.wait("document.querySelectorAll('[data-video=ready]').length >= 2")
    for curve in (0, 1):
        browser.run(f"document.querySelectorAll('.curve')[{curve}].focus({{preventScroll: true}})")
        for _ in range(3):
            browser.key("ArrowRight", 39, shift=True)
        time.sleep(1)
    browser.run("window.scrollBy(0, 150)")
    time.sleep(1)
    browser.picture(out)
