"""What a node gives to others: whether it relays, and how it says so."""

from harness import test
from harness.children import wait_for
from harness.phantom import Demo, Node

from .mistakes import refuses, up


@test(bound=60)
def wrong_limits_are_refused_with_what_is_allowed(t):
    refuses(t, *up(t, "--relay", "sometimes"), says="auto, always or never", code=2)
    refuses(t, *up(t, "--rate", "5"), says="it looks like 5 MB/s.*Mbit/s", code=2)
    refuses(t, *up(t, "--rate", "1 kB/s"), says="100 kB/s at least", code=2)
    refuses(t, *up(t, "--burst", "5 MB"), says="--burst says nothing without --rate", code=2)
    refuses(t, *up(t, "--quota", "lots"), says="it looks like 500 GB", code=2)


@test(bound=120)
def a_node_relays_when_a_neighbour_has_reached_it_and_one_that_does_not_want_to_says_why(t):
    demo = Demo(t)
    willing = Node(t, "willing", "127.44.0.1", join=demo.invitation)
    wait_for("the node to be reached", lambda: willing.status()["relaying"] == "yes", 30, willing.process)
    wait_for("the network to know it", lambda: demo.status()["known_nodes"] == 12, 30, demo.process)
    unwilling = Node(t, "unwilling", "127.45.0.1", join=demo.invitation, options=["--relay", "never"])
    status = unwilling.status()
    assert (status["relaying"], status["relaying_why"]) == ("no", "it was started with --relay never"), status
    wait_for("it to have paths", lambda: unwilling.status()["paths"]["ready"], 60, unwilling.process)
    assert demo.status()["known_nodes"] == 12


@test(bound=120)
def a_quota_that_is_spent_counts_after_a_restart(t):
    demo = Demo(t)
    node = Node(t, "node", "127.46.0.1", join=demo.invitation, options=["--quota", "1 MB"])
    spent = wait_for("the quota to be spent", lambda: (s := node.status())["quota"]["used"] > 1_000_000 and s, 60, node.process)
    assert spent["relaying"] == "no" and f"until {spent['quota']['renewed']} 00:00 UTC" in spent["relaying_why"], spent
    node.process.terminate()
    node.process.wait(20)
    node.start()
    again = node.status()
    assert again["quota"]["used"] >= spent["quota"]["used"] and again["relaying"] == "no", again
    wait_for("it to have paths all the same", lambda: node.status()["paths"]["ready"], 60, node.process)
