"""What pictures tell of the machine that made them: nothing."""

import io
import json

from conftest import ROOT
from PIL import Image

MUG = ROOT / "examples/assets/mug.png"
MODEL = ROOT / "uno-models/assets/tiny"


def test_pictures_and_the_files_beside_them_name_no_folder_of_the_server(serve):
    server = serve("--model", MODEL, "--add_lora", f"style={MODEL / 'dit_lora.safetensors'}@0.5", "--device", "CPU")
    reference = server.upload(MUG)
    job = server.ended(server.job(references=[reference["id"]], ref_size=64))
    assert job["state"] == "done", job
    png = server.client.get(f"/api/jobs/{job['id']}/pictures/0").content
    beside = (server.data / "pictures" / job["id"] / "0.json").read_text()
    image = Image.open(io.BytesIO(png))
    settings = json.loads(image.text["uno"])
    assert settings == json.loads(beside)
    assert settings["references"][0]["sha256"] == reference["id"]
    files = [*settings["references"], *settings["model"]]
    assert len(files) == 11
    assert all(file["path"] and "/" not in file["path"] for file in files)
    for folder in (str(server.data), str(MODEL)):
        assert folder not in beside
        assert folder.encode() not in png and folder.encode("utf-16-le") not in png
    # Of the plan and of the device that was opened, what changes the picture.
    assert (settings["vae_tile"], settings["device"], settings["dtype"]) == (None, "cpu", "F32")
    assert server.get("/api/model")["device"] == "cpu"
