"""Compares medtune's use of the hub's cache with that of huggingface_hub. Started by scripts/check-hub."""
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

BASE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "base"
FILES = {path.name: path.read_bytes() for path in sorted(BASE.iterdir())} | {"README.md": b"---\nlicense: mit\n---\n", "pytorch_model.bin": b"pickled"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/tiny/tree/"):
            tree = [{"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()} for name, body in FILES.items()]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        if path.startswith("/api/models/org/tiny"):
            listing = {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.answer(200, json.dumps(listing).encode(), Content_Type="application/json")
        name = path.rsplit("/", 1)[-1]
        if name not in FILES:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        body = FILES[name]
        if path.startswith("/cdn/"):
            return self.answer(200, body)
        if name.startswith("model"):
            return self.answer(302, b"", X_Repo_Commit=COMMIT, X_Linked_Etag=f'"{hashlib.sha256(body).hexdigest()}"',
                               X_Linked_Size=str(len(body)), Location=f"http://localhost:{self.server.server_port}/cdn/{name}")
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        self.answer(200, body, X_Repo_Commit=COMMIT, ETag=f'"{blob}"')

    do_HEAD = do_GET


def main():
    medtune = sys.argv[1]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    failed = []

    def check(name, holds):
        print("ok    " if holds else "FAILED", name, flush=True)
        failed.extend([] if holds else [name])

    def run(home, *arguments, **variables):
        environment = dict(os.environ, HF_HOME=str(home), HF_ENDPOINT=endpoint, NO_PROXY="127.0.0.1,localhost", **variables)
        for name in ("HF_HUB_CACHE", "HF_TOKEN"):
            environment.pop(name, None)
        return subprocess.run([str(a) for a in arguments], env=environment, capture_output=True, text=True)

    def python(home, code, **variables):
        return run(home, sys.executable, "-c", code, **variables)

    def layout(home):
        root = home / "hub" / "models--org--tiny"
        found = {}
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path)
            elif path.is_file() and not {".no_exist", "trees"} & set(path.parts):  # what huggingface_hub remembers of listings
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    with tempfile.TemporaryDirectory(prefix="check-hub-") as work:
        ours, theirs = Path(work) / "ours", Path(work) / "theirs"
        fetched = run(ours, medtune, "fetch", "org/tiny")
        check("medtune fetches", fetched.returncode == 0)
        print(fetched.stderr, end="")
        folder = fetched.stdout.strip()
        found = python(ours, "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny', local_files_only=True))", HF_HUB_OFFLINE="1")
        check("huggingface_hub finds what medtune fetched, offline", found.returncode == 0 and found.stdout.strip() == folder)
        code = "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; T.from_pretrained('org/tiny'); print(M.from_pretrained('org/tiny').num_parameters())"
        loaded = python(ours, code, HF_HUB_OFFLINE="1")
        check("transformers loads it by its name, offline", loaded.returncode == 0 and int(loaded.stdout.split()[-1]) > 0)
        code = "from huggingface_hub import scan_cache_dir; c = scan_cache_dir(); print(len(c.warnings), [(r.repo_id, sorted(v.refs) , len(v.files)) for r in c.repos for v in r.revisions])"
        scanned = python(ours, code)
        check("huggingface_hub's scan has nothing to say against it", scanned.stdout.strip() == "0 [('org/tiny', ['main'], %d)]" % (len(FILES) - 1))
        print("      ", scanned.stdout.strip() or scanned.stderr[-500:])

        code = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny', ignore_patterns=['*.bin']))"
        downloaded = python(theirs, code, HF_HUB_DISABLE_XET="1")
        check("huggingface_hub downloads", downloaded.returncode == 0)
        print(downloaded.stderr[-500:] if downloaded.returncode else "", end="")
        logits = [run(home, medtune, "logits", "org/tiny", "--ids", "1,5,9").stdout for home in (ours, theirs)]
        check("medtune finds what huggingface_hub downloaded", logits[0] == logits[1] != "")
        one, other = layout(ours), layout(theirs)
        check("both leave the same files and links", one == other != {})
        print("".join(f"       {name}: {one.get(name)} {other.get(name)}\n" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)), end="")
        again = run(theirs, medtune, "fetch", "org/tiny", "--json")
        check("medtune has nothing to add to it", again.returncode == 0 and json.loads(again.stdout)["downloaded_bytes"] == 0)
    sys.exit(1 if failed else 0)


main()
