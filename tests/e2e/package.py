"""The Debian package: built from the program under test, installed into a folder, changed, removed."""

import gzip
import os
import re
import shutil
import subprocess

from harness import Skip, build, test

PLACES = [
    "usr/bin/phantom",
    "usr/lib/phantom/libphantom_preload.so",
    "usr/lib/systemd/system/phantom.service",
    "usr/lib/sysusers.d/phantom.conf",
    "etc/phantom/phantom.toml",
    "usr/share/phantom/apparmor",
    "usr/share/bash-completion/completions/phantom",
    "usr/share/zsh/vendor-completions/_phantom",
    "usr/share/fish/vendor_completions.d/phantom.fish",
    "usr/share/man/man1/phantom.1.gz",
    "usr/share/man/man1/phantom-up.1.gz",
    "usr/share/doc/phantom/copyright",
    "usr/share/doc/phantom/changelog.gz",
]


def built(t):
    """The package, and what it unpacks to. Not compressed: that would take longer than all the rest."""
    for tool in ("dpkg-deb", "strip", "objdump"):
        if shutil.which(tool) is None:
            raise Skip(f"{tool} is not installed")
    environment = {"DPKG_DEB_COMPRESSOR_TYPE": "none"}
    command = [build.ROOT / "node/daemon/debian/build", "--program", build.phantom(), "--into", t.folder / "built"]
    package = t.children.run(*command, environment=environment).stdout.strip()
    tree = t.folder / "tree"
    t.children.run("dpkg-deb", "--extract", package, tree)
    return package, tree


@test(bound=100)
def the_package_holds_what_a_service_needs_and_nothing_loose(t):
    package, tree = built(t)
    listed = t.children.run("dpkg-deb", "--contents", package).stdout.splitlines()
    assert all(re.match(r"(drwxr-xr-x|-rw-r--r--|-rwxr-xr-x) root/root ", line) for line in listed), listed
    programs = [line for line in listed if line.startswith("-rwx")]
    assert len(programs) == 1 and programs[0].endswith(" ./usr/bin/phantom"), programs
    missing = [place for place in PLACES if not (tree / place).is_file()]
    assert not missing, missing
    version = t.children.run(build.phantom(), "--version").stdout
    assert t.children.run(tree / "usr/bin/phantom", "--version").stdout == version
    field = lambda name: t.children.run("dpkg-deb", "--field", package, name).stdout.strip()
    assert f"phantom {field('Version')}\n" == version and field("Package") == "phantom"
    assert re.search(r"libc6 \(>= 2\.\d+\)", field("Depends")), field("Depends")
    assert gzip.decompress((tree / "usr/share/man/man1/phantom-up.1.gz").read_bytes()).startswith(b".ie")
    t.children.run("bash", "-n", tree / "usr/share/bash-completion/completions/phantom")
    control = t.folder / "control"
    t.children.run("dpkg-deb", "--control", package, control)
    for script in ("postinst", "prerm", "postrm"):
        t.children.run("sh", "-n", control / script)
    subprocess.run(["md5sum", "--quiet", "--check", control / "md5sums"], cwd=tree, check=True)
    assert (control / "conffiles").read_text() == "/etc/phantom/phantom.toml\n"


@test(bound=100)
def the_package_makes_a_user_keeps_a_changed_configuration_and_leaves_keys(t):
    if shutil.which("systemd-sysusers") is None:
        raise Skip("systemd-sysusers is not installed")
    if os.geteuid() != 0:
        raise Skip("only root can install a package")
    package, _ = built(t)
    root = t.folder / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    # Its dependencies are not in this folder, and nothing of it may touch this machine.
    dpkg = ["dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-confold"]
    t.children.run(*dpkg, "--install", package)
    user = re.search(r"^phantom:[^:]*:(\d+):(\d+):[^:]*:/var/lib/phantom:(\S+)$", (root / "etc/passwd").read_text(), re.M)
    assert user and int(user[1]) < 1000 and user[3].endswith("/nologin"), (root / "etc/passwd").read_text()
    assert not list((root / "etc").glob("systemd/system/*.wants/phantom.service")), "it was enabled unasked"
    # An AppArmor that could not read the profile has not been given it; one that asks for it is.
    profile = root / "etc/apparmor.d/phantom"
    assert not profile.exists()
    (root / "etc/apparmor.d/abi").mkdir(parents=True)
    (root / "etc/apparmor.d/abi/4.0").touch()
    (root / "etc/phantom/phantom.toml").write_text("hops = 2\n")
    t.children.run(*dpkg, "--install", package)
    assert (root / "etc/phantom/phantom.toml").read_text() == "hops = 2\n"
    assert "\n  userns,\n" in profile.read_text()
    key = root / "var/lib/phantom/node.key"
    key.parent.mkdir()
    key.write_text("a key")
    t.children.run(*dpkg, "--remove", "phantom")
    assert not (root / "usr/bin/phantom").exists() and not profile.exists() and (root / "etc/phantom/phantom.toml").exists()
    said = t.children.run(*dpkg, "--purge", "phantom").stdout
    assert not (root / "etc/phantom").exists() and key.exists() and "were kept" in said, said


@test(bound=60)
def the_units_of_the_repository_and_of_the_package_are_sound(t):
    if shutil.which("systemd-analyze") is None:
        raise Skip("systemd-analyze is not installed")
    _, tree = built(t)
    for name, unit, program in (
        ("own", build.ROOT / "examples" / "phantom.service", "/usr/local/bin/phantom"),
        ("packaged", tree / "usr/lib/systemd/system/phantom.service", "/usr/bin/phantom"),
    ):
        text = unit.read_text()
        assert f"\nExecStart={program} up\n" in text and "\nUser=phantom\n" in text, text
        copy = t.folder / f"phantom-{name}.service"
        copy.write_text(text.replace(f"{program} ", f"{build.phantom()} "))
        done = t.children.run("systemd-analyze", "verify", "--man=no", copy)
        complaints = [line for line in (done.stdout + done.stderr).splitlines() if "phantom" in line]
        assert not complaints, complaints
