"""hf:OWNER/REPO is written with a card and read again, against a stand-in of the Hub that speaks what is needed."""

import base64
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import solov2
from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.published import weights
from maskworks.published.hub import parts
from maskworks.published.names import local_file
from tests.published.test_weights import small
from tests.running import call

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789" * 4


class Handler(BaseHTTPRequestHandler):
    """The Hub's addresses for a repository's creation, its commits and its files."""

    files: dict[str, bytes]  # OWNER/REPO/FILE

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            made = json.loads(body)
            return self.answer({"url": f"http://{self.headers['Host']}/{made['organization']}/{made['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            asked = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return self.answer({"files": [each | {"shouldIgnore": False} for each in asked]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
        page = f"https://huggingface.co/{repository}/commit/{COMMIT}"
        return self.answer({"success": True, "commitOid": COMMIT, "commitUrl": page})

    def do_GET(self) -> None:
        content = self.files.get(self.path.strip("/").replace("/resolve/main/", "/"))
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "resolve" in self.path else "RepoNotFound")
        else:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        Handler.files = {}
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        monkeypatch.chdir(tmp_path)
        yield Handler.files
        server.shutdown()


def saved(path: Path) -> solov2.SOLOv2:
    model = small()
    save(path, Checkpoint("solov2", to_dict(model.config), model.class_names, model.category_ids, model.state_dict()))
    return model


def test_a_checkpoint_is_pushed_with_its_card_and_read_again(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path / "best.safetensors")
    (tmp_path / "metrics.json").write_text('{"segm": {"AP": 0.25, "AP50": 0.5}}')
    call("maskworks.published.weights", "push", "best.safetensors", "hf:me/mine", "--licence", "apache-2.0")
    assert f"written: https://huggingface.co/me/mine/commit/{COMMIT}" in capsys.readouterr().out
    assert files["me/mine/model.safetensors"] == (tmp_path / "best.safetensors").read_bytes()
    _, front, page = files["me/mine/README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "maskworks",
        "pipeline_tag": "image-segmentation",
        "license": "apache-2.0",
        "tags": ["solov2", "light_r18_448"],
    }
    for part in ("solov2 `light_r18_448`", "COCO's 80", "| segm AP | 0.2500 |", 'solov2.load("hf:me/mine")'):
        assert part in page
    again = solov2.load("hf:me/mine", trainable=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    files["me/mine/deep/other.safetensors"] = files.pop("me/mine/model.safetensors")
    assert local_file("hf:me/mine/deep/other.safetensors").name == "other.safetensors"


@pytest.mark.parametrize("name", ["hf:mine", "hf:", "hf:me/", "hf:me/mine/"])
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: expected hf:OWNER/REPO"):
        parts(name)


def test_what_isnt_on_the_hub_is_one_line(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^hf:me/mine: .*404.*; see to the name and the network") as caught:
        solov2.load("hf:me/mine")
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "hub").rglob("*.safetensors*") if path.is_file()]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub, which is not installed: pip install huggingface_hub$"):
        solov2.load("hf:me/mine")


def test_what_is_no_checkpoint_isnt_pushed(files: dict[str, bytes], tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "best.safetensors")
    with pytest.raises(UserError, match=r"best\.safetensors: not a whole safetensors file"):
        weights.hub.push(tmp_path / "best.safetensors", "hf:me/mine", "mit")
    assert not files
