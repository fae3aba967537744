"""The command line as a tool among others: what shells and the manual make of it."""

from harness import Skip, build, test
from harness.phantom import world


@test(bound=60)
def a_shell_finishes_words(t):
    script = (
        'set -e; source <("$0" completions bash); COMP_WORDS=(phantom "$@"); COMP_CWORD=$#; '
        '_phantom phantom "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; echo "${COMPREPLY[@]}"'
    )
    finish = lambda *words: t.children.run("bash", "-c", script, build.phantom(), *words).stdout.split()
    assert finish("stat") == ["status"]
    assert set(finish("completions", "")) >= {"bash", "zsh", "fish"}
    assert "--state" in finish("status", "--")


@test(bound=60)
def the_manual_has_a_page_for_each_command(t):
    pages = t.folder / "man1"
    t.children.run(build.phantom(), "man", pages, environment=world(t.folder, "user"))
    names = {page.name for page in pages.iterdir()}
    assert {"phantom.1", "phantom-up.1", "phantom-host.1"} <= names, names
    if t.children.run("sh", "-c", "command -v groff", check=False).returncode != 0:
        raise Skip("groff is not installed")
    for page in pages.iterdir():
        done = t.children.run("groff", "-man", "-Tutf8", "-ww", page)
        assert done.stdout and not done.stderr, f"{page.name}: {done.stderr}"
