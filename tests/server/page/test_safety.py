"""What the chat page keeps to itself: no requests to others, no markup of the model's, strict headers."""

from __future__ import annotations

import re

import httpx2

from edgephi.server.page import served
from tests.server.page.browser import Page, requests_in
from tests.server.page.conftest import QUESTION
from tests.server.serving import Server

# What a model must not be able to do.
MARKUP = '<img src="x" onerror="document.title = \'pwned\'"><script>document.title = "pwned"</script>'


def show_text(page: Page, text: str) -> str:
    """Show a text as the model's on the page, and return the elements that it becomes."""
    return str(
        page.driver.execute_async_script(
            "const [text, done] = arguments; const place = document.createElement('div');"
            "document.querySelector('main').append(place);"
            "import('./page/text.js').then(({ showText }) => {"
            "for (let end = 0; end <= text.length; end += 3) showText(place, text.slice(0, end));"
            "showText(place, text); done(place.innerHTML); });",
            text,
        )
    )


def test_what_the_model_writes_is_never_markup(page: Page) -> None:
    for text in (MARKUP, f"```html\n{MARKUP}\n```", f"**{MARKUP}** `{MARKUP}`", f'{{"a": "{MARKUP}"'):
        html = show_text(page, text)
        assert "&lt;img" in html
        assert "<img" not in html
        assert "<script" not in html
    page.ask(MARKUP)
    assert page.text(".question .text") == MARKUP
    assert page.all("main img, main script") == []
    assert page.driver.title == "demo-cpu · edgephi"


def test_fenced_code_and_marks_become_elements(page: Page) -> None:
    html = show_text(page, "So:\n\n```python\nx = 1 < 2\n```\nThen `x` is **true**, 2**3 and 3**2 stay.")
    assert re.findall(r"<(p|figure|strong)\b", html) == ["p", "figure", "p", "strong"]
    assert "<code>x = 1 &lt; 2</code></pre>" in html
    assert "Then <code>x</code> is <strong>true</strong>, 2**3 and 3**2 stay.</p>" in html
    assert "<figure" in show_text(page, "```\nstill open")


def test_the_page_asks_nobody_but_its_server(page: Page) -> None:
    page.driver.refresh()
    page.until_state("Ready")
    page.ask(QUESTION)
    asked = [request["url"] for request in requests_in(page.events())]
    assert f"{page.url}/page/chat.js" in asked
    assert f"{page.url}/v1/chat/completions" in asked
    assert [url for url in asked if not url.startswith(f"{page.url}/")] == []
    assert page.complaints() == []


def test_the_policy_holds(page: Page) -> None:
    """What the page could be tricked into: asking others, running scripts in its text, markup from text."""
    refused = page.driver.execute_async_script(
        "const done = arguments[0]; const refused = [];"
        "document.addEventListener('securitypolicyviolation', (e) => refused.push(e.effectiveDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => {});"
        "const script = document.createElement('script');"
        "try { script.text = 'window.ran = true'; document.head.append(script); } catch { }"
        "try { document.body.innerHTML = 'x'; } catch { }"
        # Not at once: what the driver itself runs may use eval.
        "setTimeout(() => eval('window.ran = true'));"
        "new Image().src = 'http://127.0.0.1:9/x.png';"
        "setTimeout(() => done(refused), 300)"
    )
    assert {"connect-src", "img-src", "require-trusted-types-for"} <= set(refused)
    assert page.run("return window.ran") is None
    assert page.one("header").is_displayed()


def test_the_files_are_served_with_their_headers(server: Server) -> None:
    client = httpx2.Client(base_url=server.url)
    for name in sorted(path.name for path in served.FOLDER.iterdir()):
        path = "/" if name == "index.html" else f"/page/{name}"
        found = client.get(path)
        assert found.content == (served.FOLDER / name).read_bytes()
        assert found.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-cache"
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        assert found.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
        tag = found.headers["etag"]
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = client.get(path, headers={"If-None-Match": condition})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    for path in ("/page/index.html", "/page/%2e%2e/page.py", "/page/", "/page/none.js"):
        assert client.get(path).status_code == 404


def test_the_page_needs_no_key_and_is_small(locked_server: Server) -> None:
    assert locked_server.get("/").status_code == 200
    assert locked_server.get("/page/chat.js").status_code == 200
    assert sum(path.stat().st_size for path in served.FOLDER.iterdir()) < 70_000
    assert locked_server.get("/v1/models").status_code == 401
