"""Fetches a page in four processes, each begun as the first argument says, and prints what they got."""

import hashlib
import multiprocessing
import sys
import urllib.request


def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return hashlib.sha256(answer.read()).hexdigest()


if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(4) as pool:
        print(*pool.map(fetch, [sys.argv[2]] * 8), sep="\n")
