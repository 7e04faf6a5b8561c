"""What others name and write is text in the page, and nothing else: it makes no element of it."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support import ggufs, library_page, page
from tests.support.hub import HubRepository, ModelHub
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

# Each would run where text becomes HTML; without a slash, because file names have none.
ATTACKS = {
    "file": "<img src=x onerror=taken('file')>",
    "model": "<svg onload=taken('model')>",
    "broken": '"><script>taken("broken")<|script>',
    "profile": "<iframe srcdoc=\"<script>parent.taken('profile')<script>\">",
    "description": "</td><details open ontoggle=taken('description')>",
    "alias": "javascript:taken('alias')",
    "template": "{% if false %}<b onmouseover=taken('template')>{% endif %}",
    "answer": "<img src=x onerror=taken('answer')> [here](javascript:taken('link'))",
    "prompt": "<video src=x onerror=taken('prompt')>",
}
WATCH = "window.all = []; window.taken = (what) => { window.all.push(what); };"
MARKED = "img[src=x], [onerror], [onload], [ontoggle], iframe, a[href^='javascript:'], main script"


@pytest.fixture(scope="module")
def hostile(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    magid = parts.daemon(tmp_path_factory.mktemp("hostile"))
    page.give_to(magid)
    ggufs.write_chat_model(
        magid.models / f"Alpha-{ATTACKS['file']}-Q4_0.gguf",
        name=ATTACKS["model"],
        quantization="Q4_0",
        template=ggufs.CHAT_TEMPLATE + ATTACKS["template"],
        answer=ATTACKS["answer"],
    )
    (magid.models / f"{ATTACKS['broken']}.gguf").write_bytes(b"GGUF" + bytes(100))
    profile = {
        "name": ATTACKS["profile"],
        "description": ATTACKS["description"],
        "enabled_models": ["*"],
        "aliases": {"hostile": ATTACKS["alias"]},
    }
    for name in ("test", "other"):
        (magid.profiles / f"{name}.yaml").write_text(json.dumps(profile))
    unusable = {**profile, "enabled_models": [ATTACKS["model"]]}  # which its error quotes
    (magid.profiles / "unusable.yaml").write_text(json.dumps(unusable))
    with magid, magid.client:
        magid.wait_ready()
        (model,) = magid.get("/api/models/registry")["models"]
        body = {"model": model, "messages": [{"role": "user", "content": ATTACKS["prompt"]}]}
        answer = magid.client.post("/v1/chat/completions", json=body)
        assert answer.is_success, answer.text
        unknown = {**body, "model": ATTACKS["model"]}
        assert magid.client.post("/v1/chat/completions", json=unknown).status_code == 404
        yield magid


def check(tab: Tab, view: str) -> None:
    assert tab.page.evaluate("window.all") == [], view
    assert tab.page.locator(MARKED).count() == 0, view
    assert tab.said == [], view  # also what the policy has stopped


def test_names_and_texts_of_others_make_no_element(chromium: Browser, hostile: Running) -> None:
    """In each view that the navigation has, and in the page of a model with its log."""
    with page.tab(chromium, hostile) as tab:
        tab.page.add_init_script(WATCH)
        tab.open("overview")
        links = tab.page.locator("nav[aria-label=Views] a")
        views = [link.get_attribute("href") or "" for link in links.all()]
        assert {"#/overview", "#/models"} <= set(views)
        shown = ""
        for view in views:
            tab.open(view.removeprefix("#/"))
            shown += tab.page.locator("body").inner_text()
            check(tab, view)
        (model,) = hostile.get("/api/models/registry")["models"]
        tab.open(f"models/{model}")
        tab.sees(ATTACKS["file"])
        shown += tab.page.locator("body").inner_text()
        check(tab, "a model")
        # They were shown, as text.
        assert ATTACKS["broken"] in shown


def test_a_hub_and_files_make_no_element(
    chromium: Browser, library: Running, hub: ModelHub
) -> None:
    """Licences, errors, names of files that magid lists; and what is typed."""
    tiny = hub.repositories[library_page.TINY].files["tiny-Q8_0.gguf"]
    files = {"evil-Q8_0.gguf": tiny, f"{ATTACKS['file']}-Q4_0.gguf": tiny}
    hub.repositories["org/Evil"] = HubRepository(files, licence=ATTACKS["model"])
    for name in (f"{ATTACKS['file']}.tar", f"{ATTACKS['profile'][:60]}.gguf.part"):
        (library.models / name.replace("/", "|")).write_bytes(bytes(2 << 20))
    library_page.pulled(library, "org/Evil:Q8_0")
    library_page.pull(library, "org/Evil:Q2_K")
    with page.tab(chromium, library) as tab:
        tab.page.add_init_script(WATCH)
        tab.open("library")
        expect(library_page.variants(tab, "org/Evil")).to_have_count(1)  # no other name can be used
        tab.sees(f"licence {ATTACKS['model']}")
        tab.sees(f"{ATTACKS['file']}.tar")
        tab.sees("the repository has no Q2_K")
        expect(library_page.finished(tab)).to_have_count(1)
        library_page.variants(tab, ATTACKS["template"])
        tab.sees(f"cannot use {ATTACKS['template']!r}")
        check(tab, "library")
        library_page.press(tab, "Remove", library_page.on_disk(tab))
        expect(tab.page.get_by_role("dialog")).to_contain_text("evil-Q8_0.gguf")
        check(tab, "a question")
        tab.page.keyboard.press("Escape")
        library_page.on_disk(tab).get_by_role("link").click()
        expect(tab.page.get_by_role("region", name="Where it comes from")).to_contain_text(
            ATTACKS["model"]
        )
        check(tab, "an origin")


def test_an_answer_makes_no_element(chromium: Browser, hostile: Running) -> None:
    """Nor does what is asked. Both are shown as they are."""
    with page.tab(chromium, hostile) as tab:
        tab.page.add_init_script(WATCH)
        tab.open("chat")
        (model,) = hostile.get("/api/models/registry")["models"]
        tab.page.get_by_role("combobox", name="Model").select_option(model)
        tab.page.get_by_role("textbox").last.fill(ATTACKS["prompt"])
        tab.page.get_by_role("button", name="Send").click()
        tab.sees("onerror=taken('answer')")
        tab.sees(ATTACKS["prompt"])
        check(tab, "chat")


def test_the_policy_stops_what_a_defect_would_let_in(tab: Tab, magid: Running) -> None:
    """The second line: no string becomes HTML, no inline script runs, nothing is sent elsewhere."""
    tab.open("overview")
    for script in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.write('<b>x</b>')",
        "setTimeout('1')",
        "trustedTypes.createPolicy('another', {})",
        "document.createElement('script').src = 'https://evil.example/x.js'",
    ):
        ended = f"(() => {{ try {{ {script}; return 'done' }} catch {{ return 'stopped' }} }})()"
        assert tab.page.evaluate(ended) == "stopped", script
    sent = "fetch('http://127.0.0.1:1/').then(() => 'done', () => 'stopped')"
    assert tab.page.evaluate(sent) == "stopped"
    assert tab.page.evaluate("onsecuritypolicyviolation === null")
    tab.said.clear()  # the browser's reports of all this
