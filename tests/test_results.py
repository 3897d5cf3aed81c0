"""support/results.py: result files."""

import json
import os

import pytest
from eval_parts import model_folder

from support.results import date_of, weights_of, write_result


def test_large_weights_are_told_apart(tmp_path):
    """Only pieces are read, but at both ends and between them."""
    whole, ids = bytearray(5_000_000), []
    for at in (None, 0, 65_000, 2_000_000, 4_999_999):
        changed = (
            bytes(whole[:at]) + b"1" + bytes(whole[at + 1 :]) if at is not None else bytes(whole)
        )
        ids.append(weights_of(str(model_folder(tmp_path, changed))))
    assert len(set(ids)) == 5 and weights_of("org/name") == ""


def test_a_result_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_result(path, {"rows": [1]})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_result(path, {"rows": [2]})
    assert json.loads(path.read_text()) == {"rows": [1]}


def test_the_date_that_an_evaluation_has_saved(tmp_path):
    out = tmp_path / "eval_a_m.json"
    assert date_of(out) == ""
    partial = tmp_path / "eval_a_m.partial.jsonl"
    partial.write_text('{"settings": {"date": "2026-03-03"}, "versions": {}}\n{"row": 1}\n')
    assert date_of(out) == "2026-03-03"
    out.write_text('{"settings": {"date": "2026-03-02"}, "rows": []}')
    assert date_of(out) == "2026-03-02"
    for other in ('{"settings": {}}', "{", ""):
        out.write_text(other)
        assert date_of(out) == ""
