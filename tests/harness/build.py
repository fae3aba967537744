"""Builds once what all tests use: one profile, everything in one call of cargo, so that nothing is compiled twice."""

import functools
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROFILE = os.environ.get("PHANTOM_TEST_PROFILE", "ci")


@functools.cache
def target_folder():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    return Path(json.loads(subprocess.check_output(command, cwd=ROOT))["target_directory"])


def binary(name, profile=PROFILE):
    return target_folder() / profile / name


@functools.cache
def build():
    """`--all-targets`, because tests bring features of their dependencies that a build of the binaries alone lacks."""
    subprocess.run(
        ["cargo", "build", "--quiet", "--locked", "--workspace", "--all-targets", "--profile", PROFILE], cwd=ROOT, check=True
    )


@functools.cache
def build_binaries(profile=PROFILE):
    """The programs alone, for measuring."""
    subprocess.run(
        ["cargo", "build", "--quiet", "--locked", "--workspace", "--bins", "--profile", profile], cwd=ROOT, check=True
    )


def phantom_of_users():
    """The program as `cargo run --release` builds it."""
    build_binaries("release")
    return binary("phantom", "release")


def phantom():
    return binary("phantom")


def library():
    """What programs under `phantom run --preload-only` are started with."""
    return binary("libphantom_preload.so")


def attempts():
    return binary("attempts")


def loadgen():
    return binary("loadgen")
