"""Who gets in: tokens, names of the server, other sites; and what the answers tell browsers."""

import re
import subprocess

import httpx
import pytest
from conftest import PROGRAM, ROOT

OPEN = {"/", "/health", "/openapi.json"}


def operations(document):
    for path, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), path


def test_nobody_gets_in_without_the_token(serve):
    server = serve("--token", "open-sesame")
    stranger = httpx.Client(base_url=server.url)
    seen = set()
    for method, path in operations(server.get("/openapi.json")):
        real = re.sub(r"\{n\}", "0", re.sub(r"\{(id|name)\}", "0" * 32, path))
        seen.add(path)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "open-sesame"},
            {"Authorization": "Basic b3Blbi1zZXNhbWU6"},
        ):
            answer = stranger.request(method, real, headers=headers)
            if path in OPEN:
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["type"] == "authentication_error"
        with server.client.stream(method, real) as answer:  # Event streams have no end.
            assert answer.status_code != 401, path
    assert {"/api/jobs", "/api/events", "/v1/images/edits", "/metrics", "/examples/{name}"} <= seen
    # Neither do paths and methods that there are not.
    for method, path in (("GET", "/nowhere"), ("PUT", "/api/jobs"), ("OPTIONS", "/api/jobs"), ("TRACE", "/metrics")):
        assert stranger.request(method, path).status_code == 401, path
    # The page and its parts ask for it.
    page = stranger.get("/")
    for part in re.findall(r'(?:src|href)="([a-z-]+\.(?:js|css|svg))"', page.text):
        assert stranger.get(f"/{part}").status_code == 200, part


def test_the_token_comes_from_the_environment_too(serve):
    server = serve(env={"UNO_WEB_TOKEN": "from the environment".replace(" ", "-")})
    assert httpx.get(f"{server.url}/api/jobs").status_code == 401
    assert server.client.get("/api/jobs").status_code == 200


def test_the_token_is_in_no_log(serve):
    server = serve("--token", "open-sesame")
    server.get("/api/jobs")
    httpx.get(f"{server.url}/api/jobs", headers={"Authorization": "Bearer guess-again"})
    server.stop()
    log = "".join(server.log)
    assert "request" in log
    assert "open-sesame" not in log and "guess-again" not in log


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_not_let_in_without_a_token(tmp_path, host):
    run = subprocess.run(
        [PROGRAM, "--host", host, "--port", "0", "--data", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "UNO_WEB_TOKEN" in run.stderr
    assert not (tmp_path / "data").exists()


def test_names_that_are_not_the_servers_are_refused(shared):
    assert shared.client.get("/api/jobs", headers={"Host": f"localhost:{shared.port}"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"):
        answer = shared.client.get("/api/jobs", headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error"), host
    named = shared.client.get("/", headers={"Host": "evil.example"})
    assert named.status_code == 403, "not even the page"


def test_further_names_are_let_in_where_they_are_given(serve):
    server = serve("--allow_host", "pictures.example.org", "--allow_host", "other.example.org")
    for host in ("pictures.example.org", "other.example.org:443"):
        headers = {"Host": host, "Origin": f"https://{host.split(':')[0]}"}
        assert (
            server.client.post(
                "/api/jobs", json={"prompt": "", "width": 16, "height": 16, "num_steps": 1}, headers=headers
            ).status_code
            == 202
        )


def test_pages_of_other_sites_are_refused(shared):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        for method, path in (
            ("POST", "/api/jobs"),
            ("GET", "/api/model"),
            ("DELETE", f"/api/jobs/{'0' * 32}"),
            ("POST", "/v1/images/generations"),
        ):
            assert shared.client.request(method, path, json={"prompt": ""}, headers=headers).status_code == 403, (
                headers,
                path,
            )
    own = {"Origin": shared.url, "Sec-Fetch-Site": "same-origin"}
    assert (
        shared.client.post(
            "/api/references", content=(ROOT / "examples/assets/mug.png").read_bytes(), headers=own
        ).status_code
        == 201
    )
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert shared.client.get("/", headers=link).status_code == 200


def test_answers_tell_browsers_to_be_careful(shared):
    for path in ("/", "/app.js", "/api/model", "/nowhere", "/api/jobs/x", "/examples/mug.png"):
        headers = shared.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy, path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] in ("no-store", "private, no-cache")
        assert "access-control-allow-origin" not in headers


def test_other_methods_are_refused_with_those_that_are_wanted(shared):
    for method, path, allowed in (
        ("PUT", "/api/jobs", {"GET", "HEAD", "POST"}),
        ("DELETE", "/api/model", {"GET", "HEAD"}),
        ("GET", "/v1/images/edits", {"POST"}),
        ("POST", "/app.js", {"GET", "HEAD"}),
    ):
        answer = shared.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "invalid_request_error"), path
        assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed
    answer = shared.client.get("/nowhere")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_the_page_is_kept_by_browsers_and_asked_for_anew(shared):
    answer = shared.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert shared.client.get("/", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert shared.client.get("/", headers={"If-None-Match": '"old"'}).status_code == 200
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        assert shared.client.get(f"/{name}").headers["content-type"].startswith(kind)


def test_examples_are_there(shared):
    examples = shared.get("/api/examples")["examples"]
    assert len(examples) >= 4
    for reference in (reference for example in examples for reference in example["references"]):
        assert shared.client.get(reference["url"]).content.startswith(b"\x89PNG")


def test_the_model_and_its_plan_are_told(shared):
    model = shared.get("/api/model")
    assert (model["name"], model["device"], model["dtype"], model["loras"]) == ("uno-tiny", "cpu", "float32", [])
    assert model["memory"] == ["auto", "least"]
    plan = shared.get("/api/plan", width=512, height=512, references=2, memory="auto")
    assert plan["fits"] and 0 < plan["peak_bytes"] < plan["budget_bytes"] and "peak" in plan["text"]
    assert shared.get("/api/plan", memory="least")["budget_bytes"] is None
    for query in ("width=1", "width=x", "height=4096", "references=9", "references=-1", "memory=much", "colour=red"):
        answer = shared.client.get(f"/api/plan?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.split("=")[0]), query


def test_a_plan_that_does_not_fit_says_so(shared, serve):
    usual = shared.get("/api/plan", references=1)["peak_bytes"]
    server = serve("--memory", f"{usual // 2**20 + 16}MiB", "--max_side", "4096", "--max_pixels", 4096 * 4096)
    plan = server.get("/api/plan", width=4096, height=4096, references=4)
    assert not plan["fits"] and plan["peak_bytes"] is None and "at least" in plan["text"], plan
    answer = server.client.post("/api/jobs", json={"prompt": "", "width": 4096, "height": 4096})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "memory")
    assert server.ended(server.job())["state"] == "done"


def test_health_and_metrics_are_told(shared):
    assert shared.get("/health")["status"] == "ok"
    shared.ended(shared.job())
    answer = shared.client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    for name in (
        'uno_web_jobs_total{end="done"}',
        "uno_web_jobs_waiting",
        "uno_web_picture_seconds_count",
        "uno_web_step_seconds_sum",
        "uno_web_resident_memory_bytes",
    ):
        assert name in answer.text, name
    assert '"/api/jobs/{id}"' in answer.text and "0000" not in answer.text.split("path=")[1]
