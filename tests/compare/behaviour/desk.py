"""What each scenario and tool gets for itself: a source, a home, a prefix of the bucket; and a judge that shares no code
with any of the tools (boto3)."""

import collections
import hashlib
import os
import secrets
import shutil
import stat
import tempfile

import boto3
from botocore.config import Config

import tools
from proxy import Proxy

Server = collections.namedtuple("Server", "endpoint access_key secret_key region bucket")


def server_of_the_rig(kind):
    """Reads where a server of `rig exec` is: `garage` or `moto`."""
    names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "REGION", "BUCKET")
    return Server(*(os.environ[f"RIG_{kind.upper()}_{name}"] for name in names))


def content(seed, size):
    """Bytes that no other seed makes, no two blocks of which are alike."""
    block = hashlib.shake_128(str(seed).encode()).digest(4096 - 8)
    blocks = (number.to_bytes(8, "little") + block for number in range(size // 4096 + 1))
    return b"".join(blocks)[:size]


class Desk:
    """One tool in one scenario. A context manager: everything is removed at its end."""

    def __init__(self, server, tool):
        self.server = server
        self.tool = tool
        self.root = tempfile.mkdtemp(prefix="behaviour-")
        self.prefix = "behaviour-" + secrets.token_hex(6)
        self.url = f"s3://{server.bucket}/{self.prefix}"
        self.source = self.path("source")
        self.endpoint = server.endpoint
        self.proxies = []
        self.confined = False
        self.runs = []
        for name in ("source", "home", "state"):
            os.mkdir(self.path(name))
        self.s3 = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for run in self.runs:
            run.wait(limit=0)
        for proxy in self.proxies:
            proxy.close()
        for directory, _, _ in os.walk(self.root):
            os.chmod(directory, 0o700)
        shutil.rmtree(self.root, ignore_errors=True)

    # Files ---------------------------------------------------------------------------------------------------------

    def path(self, *names):
        return os.path.join(self.root, *names)

    def write(self, name, data, mtime=None):
        """Writes a file of the source; `name` may be bytes."""
        root = os.fsencode(self.source) if isinstance(name, bytes) else self.source
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        if mtime is not None:
            os.utime(path, (mtime, mtime))
        return path

    def at(self, *names):
        return os.path.join(self.source, *names)

    # Runs ----------------------------------------------------------------------------------------------------------

    def through_a_proxy(self, hold=None):
        """Puts a proxy before the server, for the runs from now on."""
        host, port = self.server.endpoint.removeprefix("http://").rsplit(":", 1)
        proxy = Proxy((host, int(port)), hold)
        self.proxies.append(proxy)
        self.endpoint = f"http://{proxy.address}"
        return proxy

    def start(self, kind, extra=()):
        """Starts the tool, with nothing of the machine's configuration."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": self.path("home"),
            "XDG_STATE_HOME": self.path("state"),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_REGION": self.server.region,
            "AWS_DEFAULT_REGION": self.server.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "S3_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_PAGER": "",
            **self.tool.environment(self),
        }
        running = tools.Running(self.tool.line(kind, self, extra), environment, self.root, self.confined)
        self.runs.append(running)
        return running

    def run(self, kind, extra=()):
        return self.start(kind, extra).wait()

    def run_well(self, kind, extra=()):
        """Runs what is only the preparation of a scenario, which may take its time."""
        ran = self.start(kind, extra).wait(limit=5 * tools.LIMIT)
        if ran.code != 0:
            raise RuntimeError(f"{self.tool.name} cannot even prepare ({ran.exit}): {ran.output[-2000:]}")

    # The judge -----------------------------------------------------------------------------------------------------

    def objects(self):
        """Keys beneath the prefix with the SHA-256 of each; without what a tool keeps for itself."""
        found = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.server.bucket, Prefix=self.prefix + "/"
        ):
            for entry in page.get("Contents", []):
                name = entry["Key"][len(self.prefix) + 1:]
                if not name.startswith((".storage/", ".quarantine/")):
                    body = self.s3.get_object(Bucket=self.server.bucket, Key=entry["Key"])["Body"]
                    found[name] = hashlib.sha256(body.read()).hexdigest()
        return found

    def uploads(self):
        """How many uploads in parts are open."""
        page = self.s3.list_multipart_uploads(Bucket=self.server.bucket, Prefix=self.prefix + "/")
        return len(page.get("Uploads", []))

    def put(self, name, data):
        self.s3.put_object(Bucket=self.server.bucket, Key=f"{self.prefix}/{name}", Body=data)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def regular_files(root):
    """Names of the regular files of a tree, as bytes."""
    root = os.fsencode(root)
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield os.path.relpath(path, root)
