"""A browser as it is: what it does through the proxy port arrives, and not one packet of it leaves in another way."""

import re

from harness import build, test
from harness.browser import Browser
from harness.children import wait_for
from harness.island import Island
from harness.phantom import Demo

MEGABYTE = 1_000_000
# Whatever a page can do to make a browser speak to the outside: each names or addresses somebody else.
STUN = "198.51.100.77"
TEMPTATIONS = ("prefetched.example", "connected.example", "shown.example", "fetched.example", "socket.example")
TEMPTING = f"""<!doctype html><title>tempting</title>
<link rel="dns-prefetch" href="http://prefetched.example/"><link rel="preconnect" href="http://connected.example/">
<img src="http://shown.example/picture.png">
<script>
fetch("http://fetched.example/").catch(() => 0)
new WebSocket("ws:/" + "/socket.example/")
const call = new RTCPeerConnection({{ iceServers: [{{ urls: "stun:{STUN}:3478" }}] }})
const tried = new Promise(done => call.onicegatheringstatechange = () => call.iceGatheringState == "complete" && done(true))
call.createDataChannel("x")
call.createOffer().then(offer => call.setLocalDescription(offer))
</script>
"""


@test(bound=200, bound_of_all=400)
def a_browser_does_everything_and_nothing_leaves_but_through_the_node(t):
    island = Island(t)
    demo = Demo(t)
    page = t.folder / "tempting.html"
    page.write_text(TEMPTING)
    # The line that the proxy port itself prints.
    printed = t.children.run("curl", "-q", "--noproxy", "*", "-sSf", f"http://{demo.socks}/").stdout
    options = re.search(r"^Chromium: chromium (.*)$", printed, re.M).group(1).split()
    assert f"--proxy-server=socks5://{demo.socks}" in options, options
    proxied = Browser(t, "proxied", *options)
    look_around(t, proxied, demo, (100 if t.long else 20) * MEGABYTE)
    be_tempted(proxied, page)
    assert proxied.open("http://example.com/") == "net::ERR_SOCKS_CONNECTION_FAILED"
    proxied.close()
    assert not island.left(), island.left()
    # By the script that the port serves. What is not of the network is refused, rather than fetched by another way.
    configured = Browser(t, "configured", f"--proxy-pac-url=http://{demo.socks}/proxy.pac")
    assert configured.open(demo.url) is None and configured.run("document.title") == "Phantom: it works"
    assert hundred_pictures(configured, demo)
    assert configured.open("http://example.com/") == "net::ERR_SOCKS_CONNECTION_FAILED"
    configured.close()
    assert not island.left(), island.left()
    # Under the seal, without any setting.
    sealed = Browser(t, "sealed", within=[build.phantom(), "run", "--"], environment=demo.environment())
    look_around(t, sealed, demo, 20 * MEGABYTE)
    assert sealed.open(f"file://{page}") is None
    wait_for("the page to have called somebody", lambda: sealed.run("call.iceGatheringState") != "new", 20, sealed.process)
    if t.children.run("unshare", "-Urn", "ip", "link", "add", "type", "veth", check=False).returncode == 0:
        assert sealed.run("navigator.onLine") and sealed.open("http://example.com/") == "net::ERR_NAME_NOT_RESOLVED"
    sealed.close()
    assert not island.left(), island.left()
    # Who sets up nothing asks the name servers, and all that the page tried does leave.
    careless = Browser(t, "careless")
    careless.go(demo.url)
    names = (demo.site, *TEMPTATIONS)
    wait_for("a query for the site", lambda: any(packet.asks_for(demo.site) for packet in island.left()), 20)
    careless.go(f"file://{page}")

    def all_left():
        left = island.left()
        return all(any(packet.asks_for(name) for packet in left) for name in names) and any(packet.to == STUN for packet in left)

    wait_for("all that a page can make a browser send", all_left, 20)


def look_around(t, browser, demo, size):
    """The pages of the site, pictures, a WebSocket, and much data in both directions."""
    assert browser.open(demo.url) is None
    assert browser.run("document.title") == "Phantom: it works"
    assert hundred_pictures(browser, demo)
    assert browser.open(demo.url) is None
    assert browser.run(ECHO) == [f"message {number}" for number in range(50)]
    length, sent, received, expected = browser.run(UPLOAD.replace("SIZE", str(size)), bound=150)
    assert (length, sent) == (size, f"{size} {expected}"), (length, sent, expected)
    t.note(f"{size // MEGABYTE} MB down in {received[0]:.1f} s, up in {received[1]:.1f} s")


ECHO = """new Promise((done, failed) => {
  const socket = new WebSocket("ws:/" + "/" + location.host + "/echo"), got = []
  socket.onopen = () => { for (let i = 0; i < 50; i++) socket.send("message " + i) }
  socket.onmessage = event => { got.push(event.data); if (got.length == 50) { socket.close(); done(got) } }
  socket.onerror = failed
})"""

UPLOAD = """(async () => {
  const start = performance.now()
  const blob = await (await fetch("/bytes/SIZE", { cache: "no-store" })).blob(), middle = performance.now()
  const told = (await (await fetch("/upload", { method: "POST", body: blob })).text()).trim(), end = performance.now()
  const expected = (await (await fetch("/sha256/SIZE")).text()).trim()
  return [blob.size, told, [(middle - start) / 1e3, (end - middle) / 1e3], expected]
})()"""


def hundred_pictures(browser, demo):
    """Each has the width that only it has."""
    assert browser.open(f"{demo.url}/images") is None
    widths = browser.run("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert widths == [64 + number for number in range(100)], widths
    return True


def be_tempted(browser, page):
    """Opens the page that tries everything, and waits until it has tried."""
    assert browser.open(f"file://{page}") is None
    assert browser.run("tried", bound=20)
