"""The programs that are compared: their command lines and environments, and how one is run and watched."""

import os
import re
import shutil
import signal
import subprocess
import time

#: For files in parts: small parts, one at a time, so that it is known what has been sent when something happens.
PART = 5 << 20

#: How long a run may take before it counts as hanging.
LIMIT = 200


class Tool:
    """One program. `line(kind, desk, ...)` is what a user types; kind is `copy`, `sync`, or `mirror` (with deletion)."""

    name = ""
    #: What asks for the parts of `PART` bytes, one at a time.
    parts = ()

    def __init__(self, program):
        self.program = program

    def version(self):
        said = subprocess.run([self.program, *self.version_words], capture_output=True, text=True, check=False)
        return (said.stdout + said.stderr).strip().split("\n")[0]

    version_words = ("--version",)

    def environment(self, desk):
        return {}


class Migrator(Tool):
    name = "migrator"
    parts = ("--part-size", "5MiB", "--concurrency", "1")

    def line(self, kind, desk, extra=()):
        words = {"copy": ["copy"], "sync": ["sync"], "mirror": ["sync", "--delete"]}[kind]
        report = ["--ledger", desk.path("ledger.sqlite"), "--report", desk.path("report")]
        return [self.program, *words, desk.source, desk.url, *report, *extra]


class Rclone(Tool):
    name = "rclone"
    parts = ("--s3-chunk-size", "5M", "--s3-upload-cutoff", "5M", "--s3-upload-concurrency", "1", "--transfers", "1")
    version_words = ("version",)

    def line(self, kind, desk, extra=()):
        word = "copy" if kind == "copy" else "sync"
        return [self.program, word, desk.source, f"rig:{desk.server.bucket}/{desk.prefix}", *extra]

    def environment(self, desk):
        return {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_RIG_TYPE": "s3",
            "RCLONE_CONFIG_RIG_PROVIDER": "Other",
            "RCLONE_CONFIG_RIG_ENDPOINT": desk.endpoint,
            "RCLONE_CONFIG_RIG_REGION": desk.server.region,
            "RCLONE_CONFIG_RIG_ACCESS_KEY_ID": desk.server.access_key,
            "RCLONE_CONFIG_RIG_SECRET_ACCESS_KEY": desk.server.secret_key,
            "RCLONE_CONFIG_RIG_FORCE_PATH_STYLE": "true",
        }


class S5cmd(Tool):
    name = "s5cmd"
    parts = ("--part-size", "5", "--concurrency", "1")
    version_words = ("version",)

    def line(self, kind, desk, extra=()):
        first = [word for word in extra if word in ("--json", "--stat")]
        rest = [word for word in extra if word not in first]
        words = {"copy": ["cp"], "sync": ["sync"], "mirror": ["sync", "--delete"]}[kind]
        return [self.program, *first, *words, *rest, desk.source + "/", desk.url + "/"]


class Aws(Tool):
    name = "aws"
    #: In the configuration file, see `environment`.
    parts = ()

    def line(self, kind, desk, extra=()):
        words = {"copy": ["cp", "--recursive"], "sync": ["sync"], "mirror": ["sync", "--delete"]}[kind]
        return [self.program, "s3", *words, "--no-progress", *extra, desk.source, desk.url]

    def environment(self, desk):
        path = desk.path("aws-config")
        with open(path, "w", encoding="utf-8") as file:
            file.write("[default]\ns3 =\n  addressing_style = path\n  multipart_threshold = 5MB\n")
            file.write("  multipart_chunksize = 5MB\n  max_concurrent_requests = 1\n")
        return {"AWS_CONFIG_FILE": path}


ALL = (Migrator, Rclone, S5cmd, Aws)


class Ran:
    """What became of a run: exit code (None where it was stopped for hanging), output, seconds, peak memory in bytes."""

    def __init__(self, code, output, seconds, memory):
        self.code = code
        self.output = output
        self.seconds = seconds
        self.memory = memory

    @property
    def exit(self):
        if self.code is None:
            return f"hung for {LIMIT} s"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        return f"exit {self.code}"


class Running:
    """A run that goes on."""

    def __init__(self, line, environment, directory, confined):
        self.line = line
        self.started = time.monotonic()
        self.out = open(os.path.join(directory, f"out-{time.monotonic_ns()}"), "w+b")
        # Root reads what its mode forbids; without these two rights it does not, like everybody else.
        if confined and os.geteuid() == 0:
            rights = "-dac_override,-dac_read_search"
            line = [shutil.which("setpriv"), "--bounding-set", rights, "--inh-caps", rights, "--", *line]
        self.child = subprocess.Popen(
            line, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT
        )
        self.result = None
        self.memory = 0

    def ended(self):
        """Tells whether it has ended."""
        if self.result is None:
            self._look_at_memory()
            pid, status = os.waitpid(self.child.pid, os.WNOHANG)
            if pid:
                self._note(os.waitstatus_to_exitcode(status))
        return self.result is not None

    def _look_at_memory(self):
        """What wait4 tells is not less than what this process had when it started the other."""
        try:
            with open(f"/proc/{self.child.pid}/status", encoding="ascii", errors="replace") as file:
                peak = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
        except FileNotFoundError:
            return
        self.memory = max(self.memory, int(peak[1]) * 1024) if peak else self.memory

    def signal(self, number):
        if not self.ended():
            os.kill(self.child.pid, number)

    def wait(self, limit=LIMIT):
        """Waits for the end; what hangs is killed."""
        while not self.ended():
            if time.monotonic() - self.started > limit:
                os.kill(self.child.pid, signal.SIGKILL)
                os.waitpid(self.child.pid, 0)
                self._note(None)
                break
            time.sleep(0.005)
        return self.result

    def _note(self, code):
        self.child.returncode = 0 if code is None else code
        self.out.seek(0)
        output = re.sub(r"\x1b\[[0-9;]*m", "", self.out.read().decode("utf-8", "backslashreplace"))
        self.out.close()
        self.result = Ran(code, output, time.monotonic() - self.started, self.memory)
