"""The status page in a real browser, in each state of the flows."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import pytest

from ..support import DEADLINE, wait_until
from .watched import LOST, NOTHING, REFUSED, Watched, calling, watched

CONTRASTS = """
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((part) => part / 255).map((part) =>
            part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const found = rgb(getComputedStyle(at).backgroundColor);
            if (found[3] === 255) return found;
        }
        return [255, 255, 255, 255];
    };
    const found = [];
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
        if (!own || !node.checkVisibility() || node.closest('dialog')) continue;
        const style = getComputedStyle(node);
        const box = node.closest('g') && node.closest('g').querySelector('rect');
        const back = box ? rgb(getComputedStyle(box).fill) : ground(node);
        const [one, other] = [light(rgb(box ? style.fill : style.color)), light(back)].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) found.push([node.textContent, contrast.toFixed(2)]);
    }
    return found;
"""
"""Finds texts whose contrast is below that of WCAG 2.2, level AA."""

NAMELESS = """
    return [...document.querySelectorAll('button, input, select, table, section, [role=img]')]
        .filter((node) => node.checkVisibility())
        .filter((node) => !(node.ariaLabel || node.getAttribute('aria-labelledby') || node.querySelector('h3')
            || (node.tagName === 'BUTTON' && node.textContent)))
        .map((node) => node.outerHTML.slice(0, 100));
"""
"""Finds what a screen reader could not name."""


BOXES = """
    const picture = [...document.querySelectorAll('.picture')].at(-1);
    return Object.fromEntries([...picture.querySelectorAll('g')].map((group) => [
        group.querySelector('.name').textContent,
        ['x', 'y', 'width', 'height'].map((name) => Number(group.querySelector('.box').getAttribute(name))),
    ]));
"""
"""Where the boxes of the last flow are."""


CROWDED = """
    const [found, done] = arguments;
    const crowded = () => {
        const wrong = [];
        const page = document.documentElement;
        if (page.scrollWidth > page.clientWidth) wrong.push(`${page.scrollWidth} pixels`);
        for (const group of document.querySelectorAll('.picture g')) {
            const box = group.querySelector('rect').getBoundingClientRect();
            const parts = [...group.querySelectorAll('text, .worker')].filter((part) => part.getBBox().width);
            const places = parts.map((part) => part.getBoundingClientRect());
            const has = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
                && one.top < other.bottom - 3 && other.top < one.bottom - 3;
            places.forEach((place, index) => {
                const isInside = box.left <= place.left && place.right <= box.right;
                if (!isInside) wrong.push(`${parts[index].textContent} is outside`);
                const next = places.findIndex((other, number) => number > index && has(place, other));
                if (next > 0) wrong.push(`${parts[index].textContent} is on ${parts[next].textContent}`);
            });
        }
        for (const cell of document.querySelectorAll('.steps > tbody > tr:not(.more) > *, .trials th, .trials td')) {
            if (cell.scrollWidth > cell.clientWidth) wrong.push(`${cell.textContent} has no room`);
            const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
            const range = document.createRange();
            if (text) range.selectNode(text);
            const isWord = /^\\S{1,12}$/.test(cell.textContent);
            if (isWord && range.getClientRects().length > 1) wrong.push(`${cell.textContent} is broken`);
        }
        return wrong;
    };
    import(new URL('report.js', location.origin + location.pathname)).then(({ show }) => {
        show(found);
        done(crowded());
    }).catch((error) => done([String(error)]));
"""
"""Draws a document, and finds what has too little room."""


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Not asked in this module: a browser starts and ends processes as it likes; the last test takes all away."""


@pytest.fixture(scope="module")
def window() -> Iterator[Watched]:
    with watched() as window:
        yield window


@pytest.fixture
def page(window: Watched) -> Iterator[Watched]:
    """The page, freshly loaded. What its console says fails the test: also what its policy forbids."""
    window.expected = NOTHING
    window.complaints()
    window.open()
    yield window
    assert window.complaints() == []


def test_idle(page: Watched) -> None:
    """All steps of all flows are there, in words and as a picture."""
    texts = page.browser.run("return [...document.querySelectorAll('.steps tbody th')].map((n) => n.textContent)")
    names = ["decode", "faces", "caption", "fragile", "nap", "light", "find", "crop", "read", "join"]
    assert [text for text in texts if text in names] == names
    assert page.browser.run("return document.querySelectorAll('.picture .box:not(.trial)').length") == len(names)
    label = page.browser.run("return document.querySelector('.picture').ariaLabel")
    assert "decode: ready, 2 workers, 0 tasks waiting" in label
    assert page.browser.run("return document.getElementById('health').textContent") == "ready"
    page.wait_for_state("decode", "ready")
    assert page.browser.run(NAMELESS) == []
    assert page.browser.run(CONTRASTS) == []


def test_the_page_follows(page: Watched) -> None:
    page.browser.wait_for("Number(document.body.dataset.documents) > 2")


def test_loaded(page: Watched) -> None:
    """Workers are busy, the queue fills; then there are rates and times."""
    with page.held(12, "loaded"):
        page.browser.wait_for("document.querySelectorAll('.picture .worker.busy').length >= 2")
        page.browser.wait_for(f"parseInt({page.cell('decode', 'Waiting')}) > 5")
        page.browser.wait_for("document.querySelector('.picture .fill')")
        page.browser.wait_for("[...document.querySelectorAll('dd span')].some((node) => node.textContent === '12')")
    assert page.http.post("/load?count=200").status_code == 200
    page.browser.wait_for(f"parseFloat({page.cell('caption', 'Tasks')}) > 0")
    page.browser.wait_for(f"{page.cell('caption', 'Batch')}.endsWith('of 8')")
    page.browser.wait_for(f"/^[\\d.]+\\s(µs|ms|s) · /.test({page.cell('caption', 'Call p50 · p95 · p99')})")
    page.wait_for_text("p99", ".figures")
    for number in (1, 2):
        page.http.post(f"/load?count=1&size={65 << 20}")  # more than all memory of the flow
        page.wait_for_text(f"larger than shared memory\n{number}", ".tally")


def test_errors_are_shown_as_text(page: Watched) -> None:
    attack = "<img src=x onerror='document.title=1'><script>document.title=2</script>"
    assert page.http.get("/caption", params={"fate": "fail", "text": attack}).status_code == 422
    page.wait_for_text(f"ValueError: {attack}")
    assert page.browser.run("return document.querySelectorAll('main img, main script').length") == 0
    assert page.browser.run("return document.querySelectorAll('h2')[1].textContent") == "<script>others"


def test_no_script_can_write_html(page: Watched) -> None:
    """The policy of the page holds in this browser."""
    script = """
        try { document.querySelector('main').innerHTML = '<b>bold</b>'; } catch (error) { return error.name; }
        return 'written';
    """
    assert page.browser.run(script) == "TypeError"
    assert any("TrustedHTML" in message for message in page.complaints())
    page.browser.run("""
        const inline = document.createElement('script');
        inline.append('document.title = "inline"');
        document.body.append(inline);
    """)
    assert page.browser.run("return document.title") != "inline"
    assert page.complaints()


def test_a_killed_worker(page: Watched) -> None:
    restarts = page.step("decode")["restarts"]
    pid = page.kill("decode")
    page.wait_for_text(f"decode · worker died pid {pid}: was killed by SIGKILL")
    page.browser.wait_for(f"{page.cell('decode', 'Restarts')} === '{restarts + 1}'")
    page.browser.wait_for(f"{page.cell('decode', 'Workers')} === '2 of 2'")
    row = page.details("decode")
    page.wait_for_text("deaths: ", row)
    assert f"pid {pid}" not in page.browser.run(f"return document.querySelector('{row}').innerText")


def test_a_broken_step(page: Watched) -> None:
    with page.flag("broken"):
        page.kill("fragile")
        page.wait_for_state("fragile", "broken")
        page.wait_for_text("workers of step fragile of flow <script>others die too often", "#reasons")
        page.wait_for_text("RuntimeError: <b>the model file is damaged</b>")
        assert page.browser.run("return document.querySelectorAll('.picture .box.bad').length") == 1
        page.wait_for_text("broken", "#health")
        assert page.browser.run(CONTRASTS) == []
    page.wait_for_state("fragile", "ready")
    page.browser.wait_for("document.getElementById('reasons').hidden")


def test_an_unhealthy_model(page: Watched) -> None:
    with page.flag("ill"):
        page.wait_for_state("fragile", "unhealthy")
        page.browser.wait_for("document.querySelector('.picture .worker.unhealthy')")
        page.wait_for_text("<i>its answers are noise</i>", page.details("fragile"))
    page.wait_for_state("fragile", "ready")


def test_a_hanging_worker(page: Watched) -> None:
    """The caller has gone, and the call has not returned."""
    assert page.http.get("/impatient?gate=hung").status_code == 200
    page.browser.wait_for("document.querySelector('.picture .worker.hanging')")
    page.wait_for_text("no call has returned for", page.details("decode"))
    (page.directory / "hung.opened").touch()
    page.browser.wait_for("!document.querySelector('.picture .worker.hanging')")


def test_asleep(page: Watched) -> None:
    page.wait_for_state("nap", "asleep")
    page.browser.wait_for("document.querySelector('.picture .box.rest')")
    with calling(lambda: page.http.get("/nap"), 1):
        page.browser.wait_for(f"{page.cell('nap', 'State')} !== 'asleep'")
    page.wait_for_state("nap", "asleep")


def test_a_canary_and_a_shadow(page: Watched) -> None:
    page.expected = REFUSED
    for path in ("/canary?share=0.5", "/shadow"):
        assert page.http.post(path).status_code == 200
    try:
        # A canary that is late gets its share later, so tasks come until it has it.
        with calling(lambda: page.http.post("/load?count=50"), 1):
            page.wait_for_match(r"^Canary of caption: (4[6-9]|5[0-4])\s% of the tasks$")
            page.wait_for_match(r"^canary v2 · (4[6-9]|5[0-4])\s%$", ".picture")
        page.wait_for_text("Shadow of faces", ".flow")
        page.wait_for_text("ValueError ×")
        page.wait_for_text("(canary)", page.details("caption"))
        assert "one change of a step at a time" in page.press("caption", "Restart")
        assert page.browser.run(NAMELESS) == []
        assert page.browser.run(CONTRASTS) == []
    finally:
        page.http.delete("/trials")
    page.browser.wait_for("!document.querySelector('.box.trial')")
    page.browser.wait_for("!document.body.innerText.includes('Canary of caption')")


def test_branches(page: Watched) -> None:
    """They stand beside each other, or one below the other on a phone; all of them work on one task."""
    with page.held(1, "branches", "/branches"):
        for step, state in (("find", "busy"), ("read", "busy"), ("join", "ready")):
            page.wait_for_text(state, page.details(step))
    wide = page.browser.run(BOXES)
    assert wide["light"][0] < wide["find"][0] < wide["join"][0]
    assert wide["crop"][0] < wide["read"][0] < wide["join"][0]
    assert wide["find"][1] + wide["find"][3] < wide["crop"][1] == wide["read"][1]
    assert wide["find"][1] < wide["light"][1] == wide["join"][1] < wide["crop"][1]
    arrows = "return [...document.querySelectorAll('.picture')].at(-1).querySelectorAll('.tip').length"
    assert page.browser.run(arrows) == 5
    page.open(360, 780)
    boxes = page.browser.run(BOXES)
    narrow = [boxes[name] for name in ("light", "find", "crop", "read", "join")]
    assert all(upper[1] + upper[3] < lower[1] for upper, lower in itertools.pairwise(narrow))
    assert all(0 < x and x + width < 340 for x, _, width, _ in narrow)
    assert page.browser.run("return document.documentElement.scrollWidth") <= 360


def test_buttons(page: Watched) -> None:
    page.expected = REFUSED
    version = page.step("caption")["version"]
    assert "done" in page.outcome("caption", "Restart")
    renewed = page.step("caption")["version"]
    assert renewed > version
    page.wait_for_text(f"v{renewed}", ".picture")
    row = page.details("caption")
    for number, text in ((1, "done"), (99, "caption can have 1 to")):
        page.browser.run(f"""
            const input = document.querySelector('{row} input');
            input.value = {number};
            input.dispatchEvent(new Event('input'));
        """)
        assert text in page.outcome("caption", "Scale")
    page.browser.wait_for(f"{page.cell('caption', 'Workers')} === '1 of 1'")
    page.browser.run(f"document.querySelector('{row} select').value = 'missing'")
    assert "no such model: missing.onnx" in page.outcome("caption", "Replace")
    page.browser.run(f"document.querySelector('{row} select').value = 'large'")
    assert "done" in page.outcome("caption", "Replace")
    assert page.http.get("/caption?text=bird").json() == "large: bird"
    page.wait_for_text("replace by large · 127.0.0.1: done", "#changes")
    assert "asks for: replace by large step caption of flow captions" in page.service.read_log()


def test_a_question_can_be_answered_with_no_by_keyboard(page: Watched) -> None:
    row = page.details("decode")
    version = page.step("decode")["version"]
    page.browser.run(f"document.querySelector('{row} button').focus()")
    page.browser.click(f"{row} button")
    page.browser.wait_for("document.getElementById('question').open")
    escape = [{"type": "keyDown", "value": "\ue00c"}, {"type": "keyUp", "value": "\ue00c"}]
    page.browser.command("/actions", actions=[{"type": "key", "id": "keyboard", "actions": escape}])
    page.browser.wait_for("!document.getElementById('question').open")
    assert page.browser.run("return document.activeElement.textContent") == "Restart"
    assert page.step("decode")["version"] == version


def test_a_phone_in_the_dark(page: Watched) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.command("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": dark})
    try:
        page.open(360, 780)
        page.details("caption")
        page.browser.wait_for("document.querySelector('.picture svg').clientWidth <= 340")
        assert page.browser.run("return document.documentElement.scrollWidth") <= 360
        assert page.browser.run(CONTRASTS) == []
        assert page.browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 25)"
    finally:
        page.browser.command("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": []})


@pytest.mark.parametrize("width", [360, 800, 1100, 1280])
def test_what_is_long_or_large_has_room(page: Watched, width: int) -> None:
    document = page.snapshot()
    (flow, *_) = document["flows"]
    first, second, third = flow["steps"]
    times = {"p50": 0.0123, "p95": 0.123, "p99": 1.23, "is_recent": True}
    name = "a_name_of_sixty_characters_that_says_what_the_step_is_for_it"
    for step, text in ((first, "W" * 60), (second, name), (third, "read")):
        worker = step["workers"][0]
        step |= {"name": text, "throughput": 98765.4, "handle_time": times, "queued": 999_999, "queue_size": 1_000_000}
        step |= {"batch": {"size": 123.4, "limit": 128}, "workers": [worker] * 64, "nprocs": 64}
    second["change"] = "replaced"
    side = {"version": 12, "tasks": 1_234_567, "failed": 1234, "deaths": 3, "handle_time": times}
    side["errors"] = {"ValueError": 1200, "package.module.AnErrorWithALongName": 34}
    third["trial"] = {"role": "canary", "share": 0.05, "skipped": 0, "baseline": side, "candidate": side}
    shape = [step["name"] for step in flow["steps"]]
    page.open(width, 900)
    document["flows"] = [{**flow, "name": "crowded", "shape": shape}]
    assert page.browser.command("/execute/async", script=CROWDED, args=[document]) == []


def test_a_lost_connection_comes_back(page: Watched) -> None:
    page.expected = LOST
    os.kill(page.service.process.pid, signal.SIGSTOP)
    try:
        page.browser.wait_for("document.body.dataset.connection === 'lost'")
        page.wait_for_text("Connection lost", "#connection")
    finally:
        os.kill(page.service.process.pid, signal.SIGCONT)
    page.browser.wait_for("document.body.dataset.connection === 'live'")


def test_draining_and_the_end_of_the_server(page: Watched) -> None:
    """The page shows that the server stops, does not hold it up, and says when it has gone. The last test."""
    page.expected = LOST
    page.service.process.send_signal(signal.SIGTERM)
    page.wait_for_text("draining", "#health")
    page.wait_for_text("the server was told to stop", "#reasons")
    page.browser.wait_for("document.body.dataset.connection === 'ended'")
    page.wait_for_text("The server is stopping", "#connection")
    assert wait_until(lambda: page.service.process.poll() is not None, DEADLINE)
