"""A stand-in for the Hugging Face Hub: what huggingface_hub calls to make a repository, commit to it and read it.

Files of a kind that the hub keeps in large-file storage go the LFS way (set HF_HUB_DISABLE_XET=1: the other way, Xet,
talks to a storage service of its own through a compiled library).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from ports import free_port

LARGE = (".safetensors", "tokenizer.json")
Files = dict[str, bytes]


@dataclass
class Hub:
    """The hub's state, and switches for what goes wrong."""

    url: str = ""
    token: str = "hf_stand_in"
    owner: str = "me"
    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    stored: Files = field(default_factory=dict)
    """Large files by sha256, committed or not."""
    calls: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    """sha256 of every large file sent whole."""
    refuse_uploads_after: int = 1000
    refuse_commits_with: int = 0
    """HTTP status, with a reason that has the token in it."""

    def head(self, repository: str) -> tuple[str, Files]:
        return self.commits[repository][-1] if self.commits.get(repository) else ("0" * 40, {})

    def at(self, repository: str, revision: str) -> Files:
        found = [files for commit, files in self.commits.get(repository, []) if commit == revision]
        return found[0] if found else self.head(repository)[1]

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.head(repository)[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        name = hashlib.sha1(f"{repository}{len(self.commits.get(repository, []))}".encode()).hexdigest()
        self.commits.setdefault(repository, []).append((name, files))
        return name


def build(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def authorise(request: Request, call_next: Any) -> Response:
        hub.calls.append(f"{request.method} {request.url.path}")
        stored = request.url.path.startswith("/storage/")
        if not stored and request.headers.get("authorization") != f"Bearer {hub.token}":
            return Response('{"error": "Invalid credentials"}', 401)
        answer: Response = await call_next(request)
        return answer

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        asked = await request.json()
        name = f"{asked['organization'] or hub.owner}/{asked['name']}"
        if asked["organization"] != hub.owner:
            return Response('{"error": "You don\'t have the rights to create a model there"}', 403)
        if name in hub.private:
            return Response(json.dumps({"error": "exists", "url": f"{hub.url}/{name}"}), 409)
        hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return Response(json.dumps({"url": f"{hub.url}/{name}", "name": name}), 200)

    @app.get("/api/models/{owner}/{name}")
    @app.get("/api/models/{owner}/{name}/revision/{revision}")
    def info(owner: str, name: str, revision: str = "main") -> Response:
        repository = f"{owner}/{name}"
        if repository not in hub.private:
            return Response('{"error": "not found"}', 404, headers={"X-Error-Code": "RepoNotFound"})
        commit, files = hub.head(repository)
        siblings = [{"rfilename": path} for path in files]
        content = {"id": repository, "private": hub.private[repository], "sha": commit, "siblings": siblings}
        return Response(json.dumps(content), 200, media_type="application/json")

    @app.get("/api/models/{owner}/{name}/tree/{revision}")
    def tree(owner: str, name: str, revision: str) -> list[dict[str, Any]]:
        entries = []
        for path, content in hub.at(f"{owner}/{name}", revision).items():
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
            if path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    @app.post("/api/models/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> dict[str, Any]:
        asked = (await request.json())["files"]
        modes = {file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in asked}
        return {
            "files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
            ]
        }

    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(request: Request) -> Response:
        objects = []
        for wanted in (await request.json())["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in hub.stored:
                answer["actions"] = {"upload": {"href": f"{hub.url}/storage/{wanted['oid']}"}}
            objects.append(answer)
        content = {"transfer": "basic", "objects": objects}
        return Response(json.dumps(content), 200, media_type="application/vnd.git-lfs+json")

    @app.put("/storage/{oid}")
    async def store(oid: str, request: Request) -> Response:
        content = await request.body()
        if len(hub.uploads) >= hub.refuse_uploads_after:
            return Response("broken off", 400)
        assert hashlib.sha256(content).hexdigest() == oid
        hub.stored[oid] = content
        hub.uploads.append(oid)
        return Response(status_code=200)

    @app.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(owner: str, name: str, request: Request) -> Any:
        if hub.refuse_commits_with:
            return Response(json.dumps({"error": f"too large for {hub.token}"}), hub.refuse_commits_with)
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        oid = hub.commit(f"{owner}/{name}", lines)
        return {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{owner}/{name}/commit/{oid}"}

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(owner: str, name: str, revision: str, path: str) -> Response:
        content = hub.at(f"{owner}/{name}", revision)[path]
        headers = {
            "X-Repo-Commit": revision,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        }
        return Response(content, headers=headers, media_type="application/octet-stream")

    return app


@contextlib.contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The stand-in behind a port of its own."""
    port = free_port()
    hub.url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(build(hub), port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()
