"""What a hosted server learns of its visitors: who is the same and who is not, and nothing else."""

import ipaddress
import os
import shutil

from harness import Skip, test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, curl, free_port

VISITORS = ipaddress.ip_network("127.224.0.0/11")


@test(bound=240)
def a_server_tells_its_visitors_apart_by_their_addresses(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    (t.folder / "page").write_text("a page")
    port = free_port()
    web = t.children.start("web", "python3", "-u", "-m", "http.server", port, "--bind", "127.0.0.1")
    name = host.host(80, "--to", port)
    for group, path in [("anna", "1"), ("boris", "2"), ("anna", "3"), ("boris", "4")]:
        wait_for("the page", lambda: visited(t, demo, f"http://{name}/page?{path}", group), READY, demo.process)
    seen = logged(web)
    assert seen["1"] == seen["3"] != seen["2"] == seen["4"], seen
    assert all(ipaddress.ip_address(address) in VISITORS for address in seen.values()), seen


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port $remote_addr"; }}
    }}
}}
"""


@test(bound=240)
def nginx_learns_by_the_proxy_protocol_who_comes(t):
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if not nginx:
        raise Skip("nginx is not installed")
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    port, configuration = free_port(), t.folder / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    configuration.write_text(NGINX.format(folder=t.folder, port=port, user=user))
    t.children.start("nginx", nginx, "-p", t.folder, "-c", configuration, "-e", "stderr")
    name = host.host(80, "--to", port, "--proxy-protocol")
    service = host.status()["services"][0]
    assert service["proxy_protocol"] is True, service
    said = {}
    for group in ("anna", "boris"):
        found = lambda: answer(t, demo, f"http://{name}/", group)
        said[group] = wait_for("nginx to answer", found, READY, demo.process).split()
        visitor, own, to, alias = said[group]
        assert ipaddress.ip_address(visitor) in ipaddress.ip_network("fc00::/8"), said
        assert (own, to) == (service["address"], "80"), said
        assert ipaddress.ip_address(alias) in VISITORS, said
        assert answer(t, demo, f"http://{name}/", group).split() == said[group]
    assert said["anna"][0] != said["boris"][0], said


def answer(t, demo, url, group):
    try:
        return curl(t, demo.socks, url, "--proxy-user", f"{group}:x", bound=20).stdout
    except AssertionError:
        return None


def visited(t, demo, url, group):
    return answer(t, demo, url, group) == "a page"


def logged(web):
    """The address of each path's first visitor, as the server has written it down."""
    lines = [line for line in web.log.read_text().splitlines() if '"GET /page?' in line]
    return {line.split("page?")[1].split()[0]: line.split()[0] for line in reversed(lines)}
