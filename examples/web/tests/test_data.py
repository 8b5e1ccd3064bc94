"""The data folder: whatever happens to its database or lies beside it, nothing that was there is gone."""

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess

import pytest
from conftest import PROGRAM, ROOT

MUG = ROOT / "examples/assets/mug.png"


def files(folder):
    """The hash of each file that is no part of the database."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("uno-web."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def make_history(server, jobs=3):
    reference = server.upload(MUG)["id"]
    made = [server.job(f"mug {i}", references=[reference], seed=i, num_images=2) for i in range(jobs)]
    return [server.ended(job) for job in made]


def told(job):
    """What of a job is in the settings of its pictures."""
    return {key: job[key] for key in ("id", "state", "settings", "pictures")}


def refusal(data, *args):
    run = subprocess.run(
        [PROGRAM, "--data", data, "--port", "0", *args], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 1 and not run.stdout, run
    assert "panick" not in run.stderr
    return run.stderr


def backup(data, to):
    return subprocess.run([PROGRAM, "--data", data, "--backup", to], capture_output=True, text=True, check=False)


def lose(data, how):
    """What people and accidents do to a database."""
    path = data / "uno-web.sqlite"
    if how == "moved away":
        path.rename(data.parent / "moved.sqlite")
    elif how == "of no bytes":
        path.write_bytes(b"")
    elif how == "without rows":
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM job")
        database.close()
    elif how == "garbled":
        content = bytearray(path.read_bytes())
        content[:4096] = b"\xa5" * 4096
        path.write_bytes(content)
    elif how == "torn":
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xa5" * (len(content) - 4096)
        path.write_bytes(content)
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "a text":
        path.write_text("This is no database. " * 100)


@pytest.mark.parametrize("how", ["moved away", "of no bytes", "without rows", "garbled", "torn", "cut", "a text"])
def test_a_lost_database_is_told_and_made_anew_on_request(server, how):
    made = make_history(server)
    assert server.stop() == 0
    before = files(server.data)
    lose(server.data, how)
    words = refusal(server.data)
    assert "uno-web.sqlite" in words and "--rebuild" in words and str(server.data) in words
    assert "Nothing was changed" in words
    assert files(server.data) == before
    server.args = ["--rebuild"]
    server.start()
    found = server.get("/api/jobs")["jobs"]
    assert [told(job) for job in found] == [told(job) for job in made[::-1]]
    for job in found:
        for picture in job["pictures"]:
            assert server.client.get(picture["url"]).content.startswith(b"\x89PNG")
    reference = found[0]["settings"]["references"][0]["id"]
    assert server.ended(server.job("one more", references=[reference]))["state"] == "done"
    assert server.stop() == 0
    server.args = []
    server.start()
    assert len(server.get("/api/jobs")["jobs"]) == 4
    left = files(server.data)
    assert before.items() <= left.items()
    if how in ("garbled", "torn", "cut", "a text"):
        assert list(server.data.glob("quarantine/*/uno-web.sqlite"))


@pytest.mark.parametrize("how", ["older", "copied without its log"])
def test_pictures_that_an_older_database_does_not_know_are_kept_and_taken_in(server, tmp_path, how):
    first = make_history(server, 2)
    if how == "older":
        run = backup(server.data, tmp_path / "copy.sqlite")
        assert run.returncode == 0, run.stderr
    else:
        # What is in the log comes into the database at the end; until then a copy of the database alone lacks it.
        assert server.stop() == 0
        server.start()
    second = [server.ended(server.job(f"later {i}", seed=i)) for i in range(3)]
    if how != "older":
        shutil.copy(server.data / "uno-web.sqlite", tmp_path / "copy.sqlite")
    assert server.stop() == 0
    before = files(server.data)
    shutil.copy(tmp_path / "copy.sqlite", server.data / "uno-web.sqlite")
    server.start()
    assert [job["id"] for job in server.get("/api/jobs")["jobs"]] == [job["id"] for job in first[::-1]]
    assert any("--rebuild" in line and second[0]["id"][:8] in line for line in server.log), server.log
    assert server.stop() == 0
    assert files(server.data) == before
    server.args = ["--rebuild"]
    server.start()
    found = server.get("/api/jobs")["jobs"]
    assert [told(job) for job in found] == [told(job) for job in (first + second)[::-1]]
    assert server.ended(server.job("goes on"))["state"] == "done"
    assert before.items() <= files(server.data).items()


def test_a_backup_is_made_while_the_server_works_and_restored_elsewhere(serve, tmp_path):
    server = serve()
    made = make_history(server, 2)
    running = server.until(server.job("under way", width=512, height=512, num_steps=100), lambda job: job["progress"])
    copy = tmp_path / "copy" / "uno-web.sqlite"
    copy.parent.mkdir()
    run = backup(server.data, copy)
    assert run.returncode == 0 and "3 jobs" in run.stdout, run
    assert oct(copy.stat().st_mode & 0o777) == "0o600"
    assert sorted(os.listdir(copy.parent)) == ["uno-web.sqlite"]
    # Never over another file.
    content = copy.read_bytes()
    run = backup(server.data, copy)
    assert run.returncode == 1 and "not replaced" in run.stderr
    assert copy.read_bytes() == content
    for name in ("pictures", "references"):
        shutil.copytree(server.data / name, copy.parent / name)
    shutil.copy(server.data / "uno-web.json", copy.parent)
    server.post(f"/api/jobs/{running['id']}/cancel")
    server.ended(running)
    other = serve(data=copy.parent)
    found = {job["id"]: job for job in other.get("/api/jobs")["jobs"]}
    assert [found[job["id"]] for job in made] == made
    assert found[running["id"]]["state"] in ("queued", "running"), "the queue goes on"
    picture = made[0]["pictures"][0]["url"]
    assert other.client.get(picture).content == server.client.get(picture).content
    other.post(f"/api/jobs/{running['id']}/cancel")


def test_backups_of_what_is_no_database_are_refused(server, tmp_path):
    run = backup(tmp_path / "nowhere", tmp_path / "copy")
    assert run.returncode == 1 and "is not there" in run.stderr
    assert server.stop() == 0
    lose(server.data, "a text")
    run = backup(server.data, tmp_path / "copy")
    assert run.returncode == 1 and "no database" in run.stderr
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    home = tmp_path / "home"
    (home / "references").mkdir(parents=True)
    (home / "references/thesis.pdf").write_text("years of work")
    (home / "pictures/holiday").mkdir(parents=True)
    (home / "pictures/holiday/0.png").write_bytes(MUG.read_bytes())
    before = files(home), sorted(os.listdir(home))
    for args in ([], ["--rebuild"]):
        words = refusal(home, *args)
        assert "references/thesis.pdf" in words and "new or an empty folder" in words
        assert str(home / "uno-web") in words
    assert (files(home), sorted(os.listdir(home))) == before


def test_strays_are_left_alone_at_every_start(server):
    make_history(server, 1)
    assert server.stop() == 0
    strays = [
        "references/thesis.pdf",
        f"references/{'0' * 64}",
        "references/deep/er/photo.jpg",
        "pictures/holiday/0.png",
        f"pictures/{'1' * 32}/0.png",
        f"pictures/{'2' * 32}/notes.txt",
        "letter.txt",
    ]
    for name in strays:
        path = server.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = files(server.data)
    for args in ([], ["--rebuild"], []):
        server.args = args
        server.start()
        assert len(server.get("/api/jobs")["jobs"]) == 1
        assert server.stop() == 0
        assert files(server.data) == before
    assert any("thesis.pdf" in line for line in server.log), "said, and left"
    assert any("1" * 32 in line for line in server.log)


def test_a_folder_of_an_earlier_version_is_taken_over(server):
    made = make_history(server, 2)
    assert server.stop() == 0
    with sqlite3.connect(server.data / "uno-web.sqlite") as database:
        database.executescript("DROP TABLE folder; DROP TABLE removal; PRAGMA user_version = 1")
    database.close()
    for name in ("uno-web.json", "uno-web.lock"):
        (server.data / name).unlink()
    # As `--data ~` was.
    (server.data / "letter.txt").write_text("mine")
    (server.data / "references/thesis.pdf").write_text("mine")
    before = files(server.data)
    server.start()
    assert server.get("/api/jobs")["jobs"] == made[::-1]
    assert (server.data / "uno-web.json").exists()
    assert files(server.data) == before


def test_a_database_of_another_folder_is_recognized(serve):
    one, other = serve(), serve()
    made = make_history(one, 1)
    make_history(other, 2)
    assert (one.stop(), other.stop()) == (0, 0)
    before = files(one.data)
    shutil.copy(one.data / "uno-web.sqlite", one.data.parent / "kept.sqlite")
    shutil.copy(other.data / "uno-web.sqlite", one.data)
    words = refusal(one.data)
    assert "another data folder" in words and "--rebuild" in words
    assert files(one.data) == before
    shutil.copy(one.data.parent / "kept.sqlite", one.data / "uno-web.sqlite")
    one.start()
    assert one.get("/api/jobs")["jobs"] == made


def test_a_newer_database_is_refused(server):
    assert server.stop() == 0
    with sqlite3.connect(server.data / "uno-web.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    for args in ([], ["--rebuild"]):
        words = refusal(server.data, *args)
        assert "version 99" in words and "newer" in words


def test_removing_a_job_leaves_what_others_have_put_beside_its_pictures(server):
    (job,) = make_history(server, 1)
    folder = server.data / "pictures" / job["id"]
    (folder / "notes.txt").write_text("mine")
    assert server.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert os.listdir(folder) == ["notes.txt"]
    assert server.stop() == 0
    # Nothing of ours is left: this is no lost history.
    server.start()
    assert server.get("/api/jobs")["jobs"] == []


def test_a_picture_in_the_place_of_another_is_put_aside(server):
    """A job that an older database still has in its queue, when its pictures were made with other settings."""
    job = server.job("under way", width=512, height=512, num_steps=100)
    server.until(job, lambda job: job["progress"] and job["progress"]["step"])
    server.kill()
    folder = server.data / "pictures" / job["id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.png").write_bytes(MUG.read_bytes())
    with sqlite3.connect(server.data / "uno-web.sqlite") as database:
        database.execute("UPDATE job SET settings = replace(settings, '\"num_steps\":100', '\"num_steps\":1')")
    database.close()
    server.start()
    assert server.ended(job)["state"] == "done"
    (aside,) = server.data.glob(f"quarantine/*/pictures/{job['id']}/0.png")
    assert aside.read_bytes() == MUG.read_bytes()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", aside.relative_to(server.data).parts[1])


def test_a_picture_whose_file_is_gone_is_told(server):
    (job,) = make_history(server, 1)
    (server.data / "pictures" / job["id"] / "0.png").unlink()
    answer = server.client.get(job["pictures"][0]["url"])
    assert answer.status_code == 404 and "missing" in answer.json()["error"]["message"]
    assert server.client.get(job["pictures"][1]["url"]).status_code == 200
