"""The owner's story in a real browser: from "why am I listed" to "you are off the list"."""

import os
from collections.abc import AsyncIterator

import pytest
from axe_core_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from relaytest.daemons import web
from tests.lab import DAEMONS, Lab, lab_config, running
from tests.mta.packages import require, require_installed
from tests.mta.postfix import Postfix
from tests.mta.process import fresh_address, fresh_port

PATIENCE = 20_000  # ms


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = require_installed("chromium", "chromium-browser", "google-chrome", package="chromium")
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        await opened.close()


@pytest.fixture
async def lab(database, dsn, tmp_path) -> AsyncIterator[Lab]:
    host = fresh_address()
    place = {"listen": f"{host}:{fresh_port(host)}"}
    config = lab_config(tmp_path / "zone", web=place)
    async with running(config, database, dsn, (*DAEMONS, web.run)) as system:
        yield system


def relay(lab: Lab, root) -> Postfix:
    """An open relay; it is greeted as Postfix."""
    require("postfix")
    host = fresh_address()
    return Postfix(
        root,
        host,
        fresh_port(host),
        hostname="mail.lab.example",
        domains=["lab.example", "mail.lab.example"],
        sink=lab.sink,
        relay=True,
    )


async def opened(browser: Browser, lab: Lab, **options) -> tuple[BrowserContext, Page]:
    context = await browser.new_context(base_url=f"http://{lab.config.web.listen}", **options)
    context.set_default_timeout(PATIENCE)
    return context, await context.new_page()


async def says(page: Page, text: str) -> None:
    await expect(page.locator("main")).to_contain_text(text, timeout=PATIENCE)


@pytest.mark.parametrize("scripts", [True, False], ids=["script", "no-script"])
async def test_from_listed_to_delisted(lab, browser, tmp_path, scripts):
    with relay(lab, tmp_path / "postfix") as target:
        await lab.insert(target.address, target.port)
        await lab.verdict(target.address, "open")
        await lab.idle()
        context, page = await opened(browser, lab, java_script_enabled=scripts)
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda said: broken.append(said.text) if said.type == "error" else None)

        await page.goto("/")
        await page.get_by_label("address").fill(target.address)
        await page.get_by_role("button", name="Look up").click()
        await says(page, "Listed as an open relay")

        await page.get_by_role("link", name="See the evidence").click()
        await says(page, "Messages that came back")
        await says(page, "RCPT TO:")
        await page.go_back()

        await page.get_by_role("link", name="how to close it").click()
        await says(page, "It looks like Postfix")
        await says(page, "smtpd_relay_restrictions")
        await page.go_back()

        await page.get_by_role("button", name="Test it again").click()
        await says(page, "The server still relays, so it stays on the list.")
        assert await lab.listed() == {target.address}
        await lab.idle()

        target.reconfigure(relay=False)
        await page.goto("/removal")
        await page.get_by_label("address").fill(target.address)
        await page.get_by_role("button", name="Test it again").click()
        await says(page, "The server is closed and off the list.")
        assert await lab.listed() == set()

        await page.get_by_role("link", name="All about").click()
        await says(page, "Not listed.")
        await says(page, "listed \u2192 unlisted")
        assert broken == []
        await context.close()


async def test_the_keyboard_is_enough(lab, browser, tmp_path):
    with relay(lab, tmp_path / "postfix") as target:
        await lab.insert(target.address, target.port)
        await lab.verdict(target.address, "open")
        await lab.idle()
        context, page = await opened(browser, lab)
        await page.goto("/")
        for _ in range(10):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.id") == "address":
                break
        await page.keyboard.type(target.address)
        await page.keyboard.press("Enter")
        await says(page, "Listed as an open relay")
        for _ in range(10):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.tagName") == "BUTTON":
                break
        await page.keyboard.press("Enter")
        await says(page, "The server still relays")
        await context.close()


@pytest.mark.parametrize("scripts", [True, False], ids=["script", "no-script"])
async def test_in_a_busy_hour_the_browser_computes_or_the_test_waits(
    lab, browser, tmp_path, scripts
):
    with relay(lab, tmp_path / "postfix") as target:
        await lab.insert(target.address, target.port)
        await lab.verdict(target.address, "open")
        await lab.idle()
        await lab.connection.execute(
            "INSERT INTO relaytest.allowance VALUES ('removal', 4000, now() + interval '1 hour')"
        )
        context, page = await opened(browser, lab, java_script_enabled=scripts)
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda said: broken.append(said.text) if said.type == "error" else None)
        await page.goto(f"/lookup/{target.address}")
        await page.get_by_role("button", name="Test it again").click()
        if scripts:
            await says(page, "The server still relays, so it stays on the list.")
        else:
            await says(page, "One more step")
            assert await page.locator("#computing").is_hidden()
            await page.get_by_role("button", name=f"Test {target.address} in").click()
            await says(page, "The test begins at")
        assert broken == []
        await context.close()


PAGES = ["", "status", "removal", "fix", "criteria", "faq", "about-testing", "using"]


@pytest.mark.parametrize("colours", ["light", "dark"])
async def test_every_page_fits_a_narrow_screen_and_is_accessible(lab, browser, tmp_path, colours):
    with relay(lab, tmp_path / "postfix") as target:
        await lab.insert(target.address, target.port)
        trial = (await lab.verdict(target.address, "open"))["trial"]
        await lab.idle()
        job = await lab.connection.fetchval("SELECT job FROM relaytest.trial WHERE id = $1", trial)
        own = [f"{kind}/{target.address}" for kind in ("lookup", "history", "fix")]
        own += [f"evidence/{trial}{part}" for part in ("", "/message/1", "/session/1")]
        context, page = await opened(
            browser,
            lab,
            viewport={"width": 360, "height": 640},
            color_scheme=colours,
            bypass_csp=True,  # axe is a script, which pages of evidence do not let run
        )
        for path in (*PAGES, *own, f"request/{job}"):
            answer = await page.goto(f"/{path}")
            assert answer.status == 200, path
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360, path
            found = await Axe().run(page)
            assert [(one["id"], one["help"]) for one in found["violations"]] == [], path
            assert await page.locator("h1").count() == 1, path
        await context.close()


async def test_the_first_paint_takes_one_request_for_the_page_and_one_for_its_style(
    lab, browser, tmp_path
):
    with relay(lab, tmp_path / "postfix") as target:
        await lab.insert(target.address, target.port)
        await lab.verdict(target.address, "open")
        await lab.idle()
        for path in ("/", f"/lookup/{target.address}", f"/fix/{target.address}"):
            context, page = await opened(browser, lab)
            assert await requests_of(page, path) == ["document", "stylesheet"], path
            await context.close()


async def requests_of(page: Page, path: str) -> list[str]:
    """Kinds of the requests that a page takes."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.resource_type))
    await page.goto(path)
    return asked
