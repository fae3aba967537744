"""`phantom run --explain` and `--isolate`: a user is told what a program did, and may part a run."""

import array
import json
import re
import signal
import socket

from harness import build, test
from harness.children import wait_for
from harness.phantom import Demo, world

DOES = """
import socket, sys
def tries(what):
    try:
        return what()
    except OSError:
        pass
for port in (80, 80, 81):
    tries(lambda: socket.create_connection((sys.argv[1], port)).close())
tries(lambda: socket.create_connection(("93.184.216.34", 443)))
tries(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2]))))
tries(lambda: socket.getaddrinfo("example.com", 80))
tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(30)
datagrams.connect((sys.argv[1], 9))
datagrams.send(b"x")
tries(lambda: datagrams.recv(1))
own = socket.create_server(("127.0.0.1", 8080))
socket.create_connection(own.getsockname())
"""
ECONNREFUSED, ENETUNREACH, ENOENT, EPERM = 111, 101, 2, 1


@test(bound=100)
def a_user_who_asks_is_told_what_a_program_did_and_nobody_else(t):
    demo = Demo(t)
    host = demo.site.split(":")[0]
    port = demo.socks.split(":")[1]
    file = t.folder / "told.json"
    program = ["--", "python3", "-c", DOES, host, port]
    silent = demo.ask("run", *program)
    assert host not in silent.stderr and "93.184" not in silent.stderr and not file.exists(), silent
    demo.ask("run", "--explain-file", file, "--json", *program)
    assert file.stat().st_mode & 0o777 == 0o600
    told = json.loads(file.read_text())
    deeds = {}
    for deed in told["deeds"]:
        place = deed.get("name") or deed.get("address")
        outcomes = {outcome["errno"]: outcome["times"] for outcome in deed["outcomes"]}
        deeds[deed["deed"], place, deed.get("port")] = outcomes
    resolved = deeds.pop(("resolves", host, None))
    assert set(resolved) == {0}, told
    # libc connects datagram sockets to every address of a name, to learn in which order to try them. Those send nothing.
    assert [deed["port"] for deed in told["deeds"] if deed.get("protocol") == "udp"] == [9], told
    assert set(deeds.pop(("resolves", "example.com", None))) == {ENOENT}, told
    assert deeds == {
        ("connects", host, 80): {0: 2},
        ("connects", host, 81): {ECONNREFUSED: 1},
        ("connects", host, 9): {ECONNREFUSED: 1},
        ("connects-here", "127.0.0.1", int(port)): {ECONNREFUSED: 1},
        ("connects-here", "127.0.0.1", 8080): {0: 1},
        ("listens", None, 8080): {0: 1},
        ("refused", "93.184.216.34", 443): {ENETUNREACH: 1},
        ("refused", None, None): {EPERM: 1},
    }, deeds
    checked = told["checked"]
    assert told["sockets"] >= 6 and checked["looks"] >= 2 and "lo" in checked["interfaces"] and checked["foreign"] == 0, told
    assert told["tier"] == "seal" and checked["packets_outside"] == 0, told
    # For people.
    table = demo.ask("run", "--explain", *program).stderr
    assert re.search(rf"^  connected to +{host}:80 +2 times: ok$", table, re.M), table
    assert re.search(r"^  was refused +93\.184\.216\.34:443 +once: not of the network", table, re.M), table
    assert re.search("^  held by the seal: .*\n  checked: .* 0 packets went elsewhere", table, re.M), table
    by_library = demo.ask("run", "--preload-only", "--explain", *program).stderr
    assert re.search(rf"^  connected to +{host}:80 +2 times: ok\n(.*\n)*  held by the library", by_library, re.M), by_library
    live = demo.ask("run", "--explain=live", *program).stderr
    assert live.index(f"connected to {host}:80: ok") < live.index("what the program did"), live
    wrong = demo.ask("run", "--json", *program, check=False)
    assert wrong.returncode == 2 and "--explain" in wrong.stderr, wrong


TAKES = """
import array, socket, sys, time
own = socket.socket(socket.AF_UNIX)
own.connect(sys.argv[1])
_, ancillary, _, _ = own.recvmsg(1, 64)
taken = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
def told(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0
print(told(lambda: taken.connect((sys.argv[2], int(sys.argv[3])))), told(lambda: taken.listen()), flush=True)
time.sleep(1000)
"""


@test(bound=100)
def a_socket_that_somebody_hands_over_leads_nowhere_and_is_told_of(t):
    demo = Demo(t)
    place = t.folder / "hands-over"
    with socket.socket(socket.AF_UNIX) as hands_over, socket.socket() as foreign, socket.create_server(("127.0.0.1", 0)) as server:
        hands_over.bind(str(place))
        hands_over.listen()
        file = t.folder / "told.json"
        command = ["run", "--allow-local", "--explain-file", file, "--json", "--", "python3", "-c", TAKES, place, *server.getsockname()]
        run = demo.start("run", *command)
        taker, _ = hands_over.accept()
        taker.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [foreign.fileno()]))])
        wait_for("the program's outcomes", lambda: f"{EPERM} {EPERM}\n" in run.log.read_text(), 30, run)
        # Asked for at any time.
        run.send_signal(signal.SIGUSR1)
        told = wait_for("what is known by now", lambda: whole(file), 30, run)
        refused = [deed for deed in told["deeds"] if deed["deed"] == "refused"]
        assert len(refused) == 2 and all("handed over" in deed["outcomes"][0]["says"] for deed in refused), told
        assert told["checked"]["foreign"] == 1, told
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 128 + signal.SIGTERM


def whole(file):
    try:
        return json.loads(file.read_text())
    except ValueError:
        return None


@test(bound=100)
def processes_of_a_run_share_a_session_unless_they_are_parted(t):
    demo = Demo(t)
    thrice = ["--", "sh", "-c", "for by in -4 -6 -4; do curl -q -sSf $by -o page $0 || exit 1; done", f"{demo.url}/bytes/10"]
    by_destination, by_process = ["--isolate", "by-destination"], ["--isolate", "by-process"]
    for options, sessions in (([], 1), (by_destination, 1), ([*by_destination, "--preload-only"], 1), (by_process, 3)):
        before = demo.status()["sessions"]
        demo.ask("run", *options, *thrice, bound=80)
        assert demo.status()["sessions"] - before == sessions, (options, before, demo.status()["sessions"])
