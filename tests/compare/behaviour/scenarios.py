"""The scenarios. Each is a function of a desk and further flags, and returns whether the tool did what may be expected,
with a few words of what it did.

A scenario's `flags` are those that a tool's documentation offers for it, each set tried by itself beside the tool as
it comes: the best of them counts, and all are shown.
"""

import csv
import json
import os
import signal
import socket
import time

from desk import content, digest, regular_files

#: In the order of the table.
ALL = []


class Scenario:
    def __init__(self, act, title, passes, server, flags):
        self.act = act
        self.name = act.__name__
        self.title = title
        self.passes = passes
        self.server = server
        self.flags = flags

    def variants(self, tool):
        """Sets of flags to try: for a tool without any, as it comes."""
        return self.flags.get(tool, self.flags.get("all", [()]))


def scenario(title, passes, server="garage", **flags):
    """Adds a function to the table. `passes` says what is expected; `flags` has lists of sets of flags by tool."""

    def add(act):
        ALL.append(Scenario(act, title, passes, server, flags))
        return act

    return add


NO_LINKS = {"s5cmd": [(), ("--no-follow-symlinks",)], "aws": [(), ("--no-follow-symlinks",)]}


# Deletion ----------------------------------------------------------------------------------------------------------

NINE = [f"{directory}/{number}" for directory in "abc" for number in (1, 2, 3)]


def mirrored(desk):
    for name in NINE:
        desk.write(name, content(name, 1000))
    desk.run_well("sync")
    assert len(desk.objects()) == 9


def deleted(desk, ran):
    missing = [name for name in NINE if name not in desk.objects()]
    return missing, f"{len(missing)} of 9 deleted, {ran.exit}"


@scenario("one dangling symlink, with deletion", "no object is deleted", **NO_LINKS)
def dangling_symlink(desk, flags):
    mirrored(desk)
    os.symlink("nowhere", desk.at("a/dangling"))
    missing, words = deleted(desk, desk.run("mirror", flags))
    return not missing, words


@scenario("one unreadable directory, with deletion", "no object is deleted, and the exit code is not 0")
def unreadable_directory(desk, flags):
    mirrored(desk)
    desk.confined = True
    os.chmod(desk.at("b"), 0)
    ran = desk.run("mirror", flags)
    missing, words = deleted(desk, ran)
    return not missing and ran.code != 0, words


@scenario("an unreadable file whose copy exists, with deletion", "the copy is kept, and the exit code is not 0")
def unreadable_file(desk, flags):
    mirrored(desk)
    desk.confined = True
    # Changed, so that it has to be read.
    desk.write("b/2", content("changed", 1001))
    os.chmod(desk.at("b/2"), 0)
    ran = desk.run("mirror", flags)
    missing, words = deleted(desk, ran)
    return not missing and ran.code != 0, words


@scenario(
    "an empty (unmounted) source, with deletion",
    "no object is deleted, and the exit code is not 0",
    rclone=[(), ("--max-delete", "2")],
)
def empty_source(desk, flags):
    mirrored(desk)
    os.rename(desk.source, desk.path("elsewhere"))
    os.mkdir(desk.source)
    ran = desk.run("mirror", flags)
    missing, words = deleted(desk, ran)
    return not missing and ran.code != 0, words


# Files that change while they are copied ---------------------------------------------------------------------------

PARTS = 6
SIZE = PARTS * (5 << 20)

OLD = content("old", SIZE)
NEW = content("new", SIZE)


def meddled(desk, flags, meddle):
    """Copies a file, does something to it when a third has been sent, and waits for the end."""
    path = desk.write("file", OLD)
    running, proxy = held(desk, flags, SIZE // 3)
    meddle(path)
    proxy.release()
    return running.wait()


def held(desk, flags, bodies):
    """Starts a copy, of which no more than so many bytes pass."""
    proxy = desk.through_a_proxy(bodies)
    running = desk.start("sync", [*desk.tool.parts, *flags])
    if not proxy.until_held(running.ended):
        raise RuntimeError(f"sent too little: {running.wait().output[-2000:]}")
    return running, proxy


def published(desk, ran, versions):
    """Says which of some versions the object is."""
    found = desk.objects().get("file")
    if found is None:
        return "nothing", f"nothing published, {ran.exit}"
    for name, data in versions.items():
        if found == digest(data):
            return name, f"{name} published, {ran.exit}"
    return "mixture", f"a mixture of both versions published, {ran.exit}"


def rewrite(path):
    with open(path, "r+b") as file:
        file.write(NEW)


def one_version(desk, ran):
    what, words = published(desk, ran, {"the old version": OLD, "the new version": NEW})
    return what.startswith("the ") or (what == "nothing" and ran.code != 0), words


@scenario("file rewritten in place while copied", "one version is published whole, or none and the exit code is not 0")
def rewritten(desk, flags):
    return one_version(desk, meddled(desk, flags, rewrite))


@scenario("file replaced by rename() while copied", "one version is published whole, or none and the exit code is not 0")
def replaced(desk, flags):
    with open(desk.path("next"), "wb") as file:
        file.write(NEW)
    return one_version(desk, meddled(desk, flags, lambda path: os.rename(desk.path("next"), path)))


@scenario("file appended to while copied", "all of it is published, or the exit code is not 0")
def appended(desk, flags):
    def append(path):
        with open(path, "ab") as file:
            file.write(b"one more line\n")

    ran = meddled(desk, flags, append)
    what, words = published(desk, ran, {"a prefix": OLD, "the whole file": OLD + b"one more line\n"})
    return what == "the whole file" or (what != "mixture" and ran.code != 0), words


@scenario(
    "file truncated while copied",
    "what it is now is published, or nothing and the exit code is not 0; no trace of a crash, no hanging",
)
def truncated(desk, flags):
    # To what has been sent already, so that nothing is left to read.
    ran = meddled(desk, flags, lambda path: os.truncate(path, 1000))
    what, words = published(desk, ran, {"the truncated file": OLD[:1000], "the old version": OLD})
    crashed = "Traceback" in ran.output or "panic" in ran.output
    words += ", with a backtrace" if crashed else ""
    return not crashed and (what == "the truncated file" or (what == "nothing" and ran.code not in (0, None))), words


@scenario(
    "a part is cut off and the file rewritten before it is sent again",
    "one version is published whole, or none and the exit code is not 0",
)
def retried_after_a_change(desk, flags):
    path = desk.write("file", OLD)
    proxy = desk.through_a_proxy()
    cuts = []

    def cut(method, target):
        if method == "PUT" and "partNumber=3&" in target + "&" and not cuts:
            cuts.append(target)
            return lambda: rewrite(path)
        return None

    proxy.cut = cut
    ran = desk.run("sync", [*desk.tool.parts, *flags])
    assert cuts, ran.output
    return one_version(desk, ran)


# Runs that end early -----------------------------------------------------------------------------------------------


def stopped(desk, number):
    """Copies a file in parts, sends a signal in the middle of the fourth, and waits for the end."""
    desk.write("file", OLD)
    running, proxy = held(desk, (), SIZE // 2 + (2 << 20))
    sent = time.monotonic()
    running.signal(number)
    proxy.release()
    return running.wait(), time.monotonic() - sent, proxy


def orphans(count):
    return {0: "no orphan left", 1: "an orphan left"}.get(count, f"{count} orphans left")


@scenario(
    "kill -9 in an upload in parts, then the same command",
    "the parts that were stored are not sent again, and no open upload is left",
    # Garage forgets the open uploads of an object once it is published, which hides what peers leave; moto keeps them,
    # and answers ListParts with a root that no SDK takes, so that nobody can resume there.
)
def killed(desk, _):
    _, _, proxy = stopped(desk, signal.SIGKILL)
    before = proxy.parts()
    ran = desk.run("sync", desk.tool.parts)
    right = desk.objects().get("file") == digest(OLD)
    sent, left = proxy.parts() - before, desk.uploads()
    words = f"{sent} of {PARTS} parts sent again, {orphans(left)}"
    words += "" if right else f", the file is not there, {ran.exit}"
    return right and sent <= PARTS // 2 + 1 and left == 0, words


@scenario("kill -9, the file changes, then the same command", "the new version is published whole")
def killed_and_changed(desk, _):
    stopped(desk, signal.SIGKILL)
    rewrite(desk.at("file"))
    ran = desk.run("sync", desk.tool.parts)
    what, words = published(desk, ran, {"the old version": OLD, "the new version": NEW})
    return what == "the new version" and ran.code == 0, words


@scenario(
    "SIGTERM in an upload in parts, then the same command",
    "it ends within 11 s; after the next run the file is there and no open upload is left",
)
def terminated(desk, _):
    ran, took, _ = stopped(desk, signal.SIGTERM)
    again = desk.run("sync", desk.tool.parts)
    right = desk.objects().get("file") == digest(OLD)
    left = desk.uploads()
    words = f"ended after {took:.0f} s, {orphans(left)}"
    words += "" if right else f", the file is not there, {again.exit}"
    return took < 11 and ran.code is not None and right and left == 0, words


@scenario("two runs at the same time", "the second is refused and says who works already")
def two_runs(desk, _):
    desk.write("file", OLD)
    first, proxy = held(desk, (), 7 << 20)
    begun = proxy.parts()
    second = desk.start("sync", desk.tool.parts)
    # It is refused, or begins to send as well.
    proxy.until(lambda: proxy.parts() > begun, second.ended)
    proxy.release()
    one, two = first.wait(), second.wait()
    if two.code not in (0, None) and one.code == 0:
        named = str(first.child.pid) in two.output
        return named, f"second refused ({two.exit})" + (", names the first" if named else ", does not say why")
    return False, f"{proxy.parts()} parts sent for {PARTS}; {one.exit} and {two.exit}"


# What is seen as changed -------------------------------------------------------------------------------------------


def seen_again(desk, flags, change):
    """Copies, changes the file to what looks the same, copies again; tells whether the change arrived."""
    hour_ago = time.time() - 3600
    path = desk.write("file", content(1, 5000), mtime=hour_ago)
    desk.run_well("sync", flags)
    time.sleep(1.1)
    change(path, hour_ago)
    ran = desk.run("sync", flags)
    right = desk.objects().get("file") == digest(content(2, 5000))
    return right, ("seen" if right else "not seen") + f", {ran.exit}"


@scenario("same size, older mtime", "the new content is copied", rclone=[(), ("--checksum",)])
def older_mtime(desk, flags):
    return seen_again(desk, flags, lambda path, then: desk.write("file", content(2, 5000), mtime=then - 86400))


@scenario("same size, same mtime (ctime differs)", "the new content is copied", rclone=[(), ("--checksum",)])
def same_mtime(desk, flags):
    return seen_again(desk, flags, lambda path, then: desk.write("file", content(2, 5000), mtime=then))


@scenario(
    "a bad copy that is newer than the file, then two runs",
    "the copy is repaired",
    migrator=[("--verify", "all")],
    rclone=[(), ("--checksum",)],
)
def bad_copy(desk, flags):
    desk.write("file", content(1, 5000), mtime=time.time() - 3600)
    desk.run_well("sync", flags)
    time.sleep(1.1)
    desk.put("file", content(2, 5000))
    codes = [desk.run("sync", flags).exit for _ in range(2)]
    right = desk.objects().get("file") == digest(content(1, 5000))
    return right, ("repaired" if right else "never repaired") + f", {codes[0]}, then {codes[1]}"


# Entries -----------------------------------------------------------------------------------------------------------

ODD = [
    "-rf", "--delete", ".tmp", "upload.tmp", ".hidden", "...", "caf\u00e9", "cafe\u0301", "Case", "case", "a+b", "a b",
    " leading", "trailing ", "trailing.", "100%", "%41", "%2F", "a%20b", "q?x=1&y=2", "#fragment", "a:b;c,d=e@f", "quote'\"`",
    "$HOME", "<tag>&amp;", "back\\slash", "*", "[a-z]{1,2}", "!bang", "~", "line\nbreak", "carriage\rreturn", "tab\there",
    "bell\x07", "del\x7f", "\u65e5\u672c\u8a9e", "\U0001f980", "\u202etxt.exe", "zero\u200bwidth", "\ufeffbom", "\ufffd",
    "nbsp\u00a0here", "full\uff0fwidth", "\u2400null", "quoted\u201b\uff0f", "order/a/file", "order/a.b", "order/a0", "CON",
    "soap", "n" * 255,
]  # fmt: skip
UNNAMEABLE = [b"latin1-caf\xe9", b"bad-dir-\x80/file", b"/".join([b"d" * 250] * 4) + b"/too-long-for-a-key"]


@scenario(
    "odd names",
    "each file is there under exactly its name, or named in the output and the exit code is not 0; nothing else is there",
)
def names(desk, flags):
    files = {}
    for number, name in enumerate([*(name.encode() for name in ODD), *UNNAMEABLE]):
        desk.write(name, content(number, 100 + number))
        files[name] = digest(content(number, 100 + number))
    ran = desk.run("copy", flags)
    found = {name.encode(): value for name, value in desk.objects().items()}
    exact = [name for name in files if found.get(name) == files[name]]
    told = [name for name in files if name not in exact and ran.code != 0 and is_named(name, ran.output)]
    silent = [name for name in files if name not in exact and name not in told]
    strange = [name for name in found if name not in files]
    words = f"{len(exact)} of {len(files)} exact, {len(told)} reported, {len(silent)} neither"
    words += f", {len(strange)} under other names" if strange else ""
    return not silent and not strange, f"{words}, {ran.exit}"


def is_named(name, output):
    """Tells whether an output names a file, by the first plain letters of its last or its longest segment."""
    for segment in name.split(b"/"):
        plain = ""
        for byte in segment[:40]:
            if not 0x20 < byte < 0x7f or chr(byte) in "\\\"'":
                break
            plain += chr(byte)
        if len(plain) >= 4 and plain in output:
            return True
    return False


@scenario("fifo, socket, dangling and circular links", "it ends, the plain file is there, and nothing else", **NO_LINKS)
def special(desk, flags):
    desk.write("plain", b"plain")
    desk.write("target/file", b"file")
    os.mkfifo(desk.at("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        # Its path may have 108 bytes: a desk's has fewer.
        listener.bind(desk.at("socket"))
    links = {"loop": "loop", "circle-a": "circle-b", "circle-b": "circle-a", "up": ".", "gone": "nowhere"}
    for name, to in links.items():
        os.symlink(to, desk.at(name))
    ran = desk.run("copy", flags)
    found = desk.objects()
    strange = sorted(set(found) - {"plain", "target/file"})
    words = f"{len(found) - len(strange)} of 2 files, {ran.exit}"
    words += f", {len(strange)} objects of links" if strange else ""
    right = found.get("plain") == digest(b"plain") and found.get("target/file") == digest(b"file")
    return right and not strange and ran.code is not None, words


@scenario("hard links and sparse files", "each name has the whole content")
def hard_links_and_holes(desk, flags):
    desk.write("one", content(1, 70_000))
    os.link(desk.at("one"), desk.at("two"))
    with open(desk.at("sparse"), "wb") as file:
        file.truncate(12 << 20)
        file.seek(6 << 20)
        file.write(b"in the middle")
    ran = desk.run("copy", [*desk.tool.parts, *flags])
    found = desk.objects()
    expected = {}
    for name in map(os.fsdecode, regular_files(desk.source)):
        with open(desk.at(name), "rb") as file:
            expected[name] = digest(file.read())
    right = [name for name in expected if found.get(name) == expected[name]]
    return found == expected, f"{len(right)} of {len(expected)} right, {ran.exit}"


# What is said of a run ---------------------------------------------------------------------------------------------


@scenario("one of five files cannot be read", "four are copied, and the exit code is not 0")
def partial_failure(desk, flags):
    for name in "abcde":
        desk.write(name, content(name, 1000))
    desk.confined = True
    os.chmod(desk.at("c"), 0)
    ran = desk.run("copy", flags)
    found = sorted(desk.objects())
    return found == ["a", "b", "d", "e"] and ran.code not in (0, None), f"{len(found)} of 4 copied, {ran.exit}"


@scenario(
    "the server refuses one of five files: what does the report say is copied?",
    "exactly what is stored",
    rclone=[("--use-json-log", "-v"), ("--combined", "combined.txt")],
    s5cmd=[("--json",)],
)
def report(desk, flags):
    for name in "abcde":
        desk.write(name, content(name, 1000))
    proxy = desk.through_a_proxy()
    proxy.refuse = lambda method, target: method == "PUT" and target.split("?")[0].endswith(desk.prefix + "/c")
    ran = desk.run("copy", flags)
    stored, claimed = sorted(desk.objects()), sorted(claims(desk, flags, ran))
    false = [name for name in claimed if name not in stored]
    words = f"{len(claimed)} told as copied, {len(stored)} stored, {ran.exit}"
    return claimed == stored and not false, words


def claims(desk, flags, ran):
    """What a tool says that it has copied."""
    if desk.tool.name == "migrator":
        with open(desk.path("report", "files.csv"), newline="", encoding="utf-8") as file:
            return {row["id"] for row in csv.DictReader(file) if row["outcome"] == "copied"}
    if "--combined" in flags:
        with open(desk.path("combined.txt"), encoding="utf-8") as file:
            return {line[2:].strip() for line in file if line.startswith("+ ")}
    if desk.tool.name == "rclone":
        return {line["object"] for line in json_lines(ran.output) if line.get("msg", "").startswith("Copied")}
    if desk.tool.name == "s5cmd":
        return {os.path.basename(line["source"]) for line in json_lines(ran.output) if line.get("success")}
    words = [line.split(" to s3://")[0] for line in ran.output.splitlines() if line.startswith("upload: ")]
    return {os.path.basename(line) for line in words}


def json_lines(output):
    found = []
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


@scenario(
    "what a program can read of a run with a failure",
    "JSON that says how many were copied and how many failed",
    migrator=[("--json",)],
    rclone=[("--use-json-log", "-v", "--retries", "1")],
    s5cmd=[("--json", "--stat")],
)
def summary(desk, flags):
    for name in "abcdefg":
        desk.write(name, content(name, 1000))
    desk.confined = True
    os.chmod(desk.at("c"), 0)
    ran = desk.run("copy", flags)
    documents = json_lines(ran.output)
    right = any({6, 1} <= numbers(document) for document in documents)
    return right, ("counts in JSON" if right else "no counts in JSON") + f", {ran.exit}"


def numbers(value):
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers, value))
    return {value} if type(value) is int else set()


@scenario(
    "memory of a run over unchanged files",
    "at most 100 bytes more for each file more, beside 4 MiB of an allocator's ups and downs",
    rclone=[(), ("--update", "--use-server-modtime")],
)
def memory(desk, flags):
    # With fewer, queues that are bounded still fill.
    few, many = desk.many // 2, desk.many
    peaks = []
    made = 0
    for count in (few, many):
        for number in range(made, count):
            desk.write(f"{number // 1000:03}/{number:06}-of-a-name-as-they-are", b"x")
        made = count
        desk.run_well("sync", flags)
        # The lesser of two: what is left is what it needs.
        peaks.append(min(desk.run("sync", flags).memory for _ in range(2)))
    each = (peaks[1] - peaks[0] - (4 << 20)) / (many - few)
    words = f"{peaks[0] / (1 << 20):.0f} MiB for {few:,} files, {peaks[1] / (1 << 20):.0f} MiB for {many:,}"
    return each <= 100, words
