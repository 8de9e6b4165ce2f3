"""The server as a browser meets it: over a socket on this machine."""

import json
from dataclasses import replace

import pytest
import torch
from explore.server_client import HOOK, MAXIMA, TEXT, Running, prompt, write_site

from unmix.evaluation.splice import splice, with_feature
from unmix.explore import server_api as api
from unmix.explore.prompt import prompt_ids, read_prompt

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


def test_a_prompt_is_what_python_reads(running, served):
    status, found = running.ask("/api/prompt", prompt())
    member = served.members["l0-5"]
    read = read_prompt(served.lm, HOOK, member.sae, TEXT, mask=member.mask)
    assert (status, found["truncated"]) == (200, False)
    assert [token["id"] for token in found["tokens"]] == read.ids_T.tolist()
    assert b"".join(token["bytes"].encode("latin-1") for token in found["tokens"][1:]) == TEXT.encode()
    assert [token["masked"] for token in found["tokens"]] == read.masked_T.tolist()
    for token, norm, error, active in zip(found["tokens"], read.norm_T, read.error_T, read.features, strict=True):
        assert (token["norm"], token["err"]) == pytest.approx((norm.item(), error.item()), rel=1e-6)
        assert [i for i, _ in token["f"]] == [i for i, _ in active]
        assert [f for _, f in token["f"]] == pytest.approx([f for _, f in active], rel=1e-6)


def test_a_long_prompt_is_cut_and_says_so(running):
    _, found = running.ask("/api/prompt", prompt(text="x" * 500))
    assert found["truncated"] is True
    assert len(found["tokens"]) == 64


def test_ablating_equals_the_splice_in_python(running, served):
    member = served.members["l0-5"]
    ids_T = prompt_ids(served.lm, TEXT).ids_T
    x_TD = served.lm.activations(ids_T[None], [HOOK])[HOOK][0]
    feature = int(member.sae.encode(x_TD)[1:].sum(0).argmax())
    with splice(served.lm.model, HOOK, with_feature(member.sae, feature, 0)):
        changed_TV = torch.log_softmax(served.lm.logits(ids_T[None])[0].double(), -1)
    plain_TV = torch.log_softmax(served.lm.logits(ids_T[None])[0].double(), -1)
    _, found = running.ask("/api/intervene", prompt(changes=[{"feature": feature, "kind": "ablate"}], where="all"))
    delta_T = (changed_TV - plain_TV)[:-1].gather(1, ids_T[1:, None]).squeeze(1)
    assert delta_T.abs().max() > 1e-4
    assert found["delta_logp"][:-1] == pytest.approx(delta_T.tolist(), abs=1e-5)
    assert found["delta_logp"][-1] is None
    kl_T = (plain_TV.exp() * (plain_TV - changed_TV)).sum(1)
    assert found["kl"] == pytest.approx(kl_T.tolist(), abs=1e-5)
    p, ids = changed_TV[-1].exp().topk(10)
    assert [p for _, _, p in found["next"]["changed"]] == pytest.approx(p.tolist(), abs=1e-5)
    assert [i for i, _, _ in found["next"]["changed"]] == ids.tolist()
    assert found["plain"]["loss"] == pytest.approx(-plain_TV[:-1].gather(1, ids_T[1:, None]).mean().item(), abs=1e-5)
    assert found["generated"] == {"plain": [], "changed": []}


def test_strength_0_changes_no_logit(running):
    changes = [{"feature": 1, "kind": "add", "strength": 0}]
    _, found = running.ask("/api/intervene", prompt(changes=changes, generate=8, seed=3, temperature=1.2))
    assert set(found["kl"]) == {0.0}
    assert set(found["delta_logp"][:-1]) == {0.0}
    assert found["next"]["plain"] == found["next"]["changed"]
    assert found["generated"]["plain"] == found["generated"]["changed"]
    assert 1 <= len(found["generated"]["plain"]) <= 8


def test_a_streamed_answer_tells_what_is_predicted_and_then_each_token(running):
    asked = prompt(changes=[{"feature": 3, "kind": "add", "strength": 2}], generate=6, seed=4)
    _, whole = running.ask("/api/intervene", asked)
    status, headers, content = running.send("/api/intervene", asked | {"stream": True})
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    first, *parts, last = map(json.loads, content.splitlines())
    assert first == whole | {"generated": {"plain": [], "changed": []}}
    assert last == whole
    written = whole["generated"]
    assert len(parts) == max(map(len, written.values())) > 1
    for n, part in enumerate(parts, 1):
        assert part == {"generated": {side: tokens[:n] for side, tokens in written.items()}}


def test_a_streamed_request_that_does_not_fit_is_refused_as_others_are(running):
    changes = [{"feature": 99, "kind": "ablate"}]
    status, found = running.ask("/api/intervene", prompt(changes=changes, generate=6, stream=True))
    assert (status, "feature 99 is not there" in found["error"]) == (400, True)


def test_what_goes_wrong_behind_the_first_part_is_the_last_line(running, monkeypatch, caplog):
    def answer(served, request, asked, tell):
        tell({"kl": []})
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(api, "answer_intervene", answer)
    fresh = Running(running.served)
    try:
        status, _, content = fresh.send("/api/intervene", prompt(changes=[], stream=True))
    finally:
        fresh.close()
    assert status == 200
    assert [json.loads(line) for line in content.splitlines()] == [{"kl": []}, {"error": "RuntimeError: first second"}]
    assert "a request failed" in caplog.text


def test_strengths_are_in_units_of_the_maximum(running, served):
    member = served.members["l0-5"]
    ids_T = prompt_ids(served.lm, TEXT).ids_T
    add = 2 * MAXIMA[3] * member.sae.W_dec[3].detach()
    with splice(served.lm.model, HOOK, lambda x: x + add):
        p, ids = torch.softmax(served.lm.logits(ids_T[None])[0, -1], -1).topk(10)
    _, found = running.ask("/api/intervene", prompt(changes=[{"feature": 3, "kind": "add", "strength": 2}]))
    assert [p for _, _, p in found["next"]["changed"]] == pytest.approx(p.tolist(), abs=1e-5)
    assert [i for i, _, _ in found["next"]["changed"]] == ids.tolist()


def test_one_position_is_changed(running):
    _, found = running.ask("/api/intervene", prompt(changes=[{"feature": 3, "kind": "add", "strength": 3.5}], where=4))
    assert max(found["kl"][:4]) < 1e-9
    assert found["kl"][4] > 1e-4


def test_features_are_asked_of_the_store(running):
    _, found = running.ask("/api/feature", {"member": "l0-5", "feature": 3, "offset": 20, "order": "uniform"})
    assert found == {"windows": [], "member": "l0-5", "offset": 20, "order": "uniform"}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("prompt", {"member": "l0-6", "text": ""}, "there is no member 'l0-6'; it is one of l0-5"),
        ("prompt", {"member": "../../etc", "text": ""}, "there is no member '../../etc'"),
        ("prompt", {"member": "l0-5"}, "text: Field required"),
        ("prompt", {"member": "l0-5", "text": "", "path": "/etc"}, "unknown key path; known here: member, text"),
        ("prompt", {"member": "l0-5", "text": 5}, "text = 5: "),
        ("prompt", {"member": "l0-5", "text": "x" * 20_001}, "at most 20000 characters"),
        ("prompt", b"{", "Invalid JSON"),
        ("prompt", b"[" * 100_000, "Invalid JSON"),
        ("prompt", b"\xff", "Invalid JSON"),
        ("prompt", b"", "Invalid JSON"),
        ("prompt", b"x" * 200_000, "a request may have 131,072 bytes"),
        ("intervene", prompt(changes=[{"feature": 99, "kind": "ablate"}]), "feature 99 is not there"),
        ("intervene", prompt(changes=[{"feature": 99, "kind": "add"}]), "l0-5 has no feature 99; give 0 to 47"),
        ("intervene", prompt(changes=[{"feature": 7, "kind": "add"}]), "feature 7 of l0-5 never fired"),
        ("intervene", prompt(changes=[{"feature": 1, "kind": "eval"}]), "changes.0.kind = 'eval'"),
        ("intervene", prompt(changes=[{"feature": True, "kind": "add"}]), "changes.0.feature = True"),
        ("intervene", prompt(changes=[{"feature": "1", "kind": "add"}]), "changes.0.feature = '1'"),
        ("intervene", prompt(changes=[{"feature": 1, "kind": "add"}] * 33), "at most 32 items"),
        ("intervene", prompt(changes=[], generate=129), "generate = 129"),
        ("intervene", prompt(changes=[], where=400), "position 400 is not in the text"),
        ("intervene", prompt(changes=[], where="some"), "where"),
        ("intervene", prompt(changes=[], temperature=-1), "temperature = -1"),
        ("intervene", b'{"member": "l0-5", "text": "", "changes": [], "temperature": NaN}', "temperature = nan"),
        ("feature", {"member": "l0-5", "feature": 48}, "l0-5 has no feature 48"),
        ("feature", {"member": "l0-5", "feature": 1, "order": "random()"}, "order = 'random()'"),
        ("feature", {"member": "l0-5", "feature": 1, "limit": 10_000}, "limit = 10000"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(running, path, body, said):
    status, found = running.ask(f"/api/{path}", body)
    assert status == 400
    assert said in found["error"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"X_Unmix_Token": None}, 403),
        ({"X_Unmix_Token": "wrong"}, 403),
        ({"Content_Type": "text/plain"}, 415),
    ],
)
def test_foreign_requests_are_refused(running, changed, status):
    changed = {name.replace("_", "-"): value for name, value in changed.items()}
    found, said = running.ask("/api/prompt", prompt(), **changed)
    assert found == status
    assert said["error"]


def test_the_page_itself_is_answered(running):
    origin = {"Origin": f"http://127.0.0.1:{running.port}", "Sec_Fetch_Site": "same-origin"}
    assert running.ask("/api/prompt", prompt(), **origin)[0] == 200
    status, headers, body = running.send("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b"<!doctype html>")
    assert b'"server":true' in running.send("/manifest.js")[2]
    assert running.send("/", method="HEAD")[2] == b""


@pytest.mark.parametrize("path", ["/", "/absent.js", "/api/prompt", "/api/none"])
def test_every_answer_has_the_headers(running, path):
    _, headers, _ = running.send(path, {} if path.startswith("/api") else None)
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not [name for name in headers if name.lower().startswith("access-control")]
    assert headers["Server"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.js", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/etc/passwd",
        "/l0-5/..%5c..%5cindex.html", "/l0-5", "/l0-5/", "/index.html%00.js", "/.git/config", "/api/../index.html",
    ],
)  # fmt: skip
def test_there_is_no_way_out_of_the_folder(running, path):
    status, headers, body = running.send(path)
    assert status in (404, 405)
    assert headers["Content-Type"] == "application/json"
    assert "error" in json.loads(body)


def test_preflights_are_refused(running):
    status, headers, _ = running.send("/api/prompt", method="OPTIONS", Origin="http://evil.example")
    assert status == 403
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_failure_inside_is_one_line(running, served, monkeypatch, caplog):
    def fail(self, ids, hooks):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(type(served.lm), "activations", fail)
    status, found = running.ask("/api/prompt", prompt())
    assert (status, found["error"]) == (500, "RuntimeError: first second")
    assert "a request failed" in caplog.text


def test_a_damaged_site_is_said_as_json(served, tmp_path, caplog):
    site = write_site(tmp_path / "site")
    member = served.members["l0-5"]
    running = Running(replace(served, members={"l0-5": replace(member, site=site)}))
    try:
        (site / "manifest.js").write_text("nonsense")
        (site / "l0-5" / "index.js").write_text("nonsense")
        status, headers, body = running.send("/manifest.js")
        assert (status, headers["X-Content-Type-Options"]) == (500, "nosniff")
        assert "manifest.js is damaged; build the site again" in json.loads(body)["error"]
        status, found = running.ask("/api/intervene", prompt(changes=[{"feature": 1, "kind": "add", "strength": 1}]))
        assert (status, "index.js is damaged" in found["error"]) == (400, True)
    finally:
        running.close()


def test_a_token_with_very_many_features_says_how_many_are_left_out(served, monkeypatch):
    whole = api.answer_prompt(served, api.PromptRequest(**prompt()), lambda: False, print)["tokens"]
    monkeypatch.setattr(api, "KEPT", 3)
    cut = api.answer_prompt(served, api.PromptRequest(**prompt()), lambda: False, print)["tokens"]
    assert max(token["more"] for token in cut) > 0
    for all_of, some in zip(whole, cut, strict=True):
        assert all_of["more"] == 0
        assert some["f"] == all_of["f"][:3]
        assert some["more"] == max(0, len(all_of["f"]) - 3)
